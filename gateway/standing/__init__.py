"""What a peer that has given something gets for it: earlier turns in a full queue."""
