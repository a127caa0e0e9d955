"""What the network costs: an echo through it beside the same echo behind plain HTTP."""
