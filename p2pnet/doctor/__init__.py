"""Looks at this machine and at the network from it, and says what is well, what is not, and what to do."""
