"""Texts to vectors: what a folder says of how to embed, the encoder, and batches across requests."""
