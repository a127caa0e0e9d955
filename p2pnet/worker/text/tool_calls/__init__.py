"""Knows how models write tool calls, and reads them out of answers. Knows nothing of tokens or models."""
