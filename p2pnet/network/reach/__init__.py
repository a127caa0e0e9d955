"""How others reach this peer: whether they can dial it, and the relays where it has a place when they cannot."""
