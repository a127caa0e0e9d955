"""Which workers there are at this moment: read from the directory, and probed."""
