"""Tool calls: how models write them, and how they are read out of an answer. Knows nothing of tokens or models."""
