"""What answers an inbound stream, and what one gateway may take."""
