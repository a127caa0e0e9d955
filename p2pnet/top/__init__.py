"""The network in a terminal, as one gateway sees it: read, laid out to any width, shown."""
