"""Shows the network in a terminal, as one gateway sees it."""
