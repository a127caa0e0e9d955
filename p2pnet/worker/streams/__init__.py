"""Answers inbound streams, and limits what one gateway may take."""
