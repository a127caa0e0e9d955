"""What this gateway does with receipts: checks them, signs back, and keeps those that clients have asked for."""
