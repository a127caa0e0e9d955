"""Turns texts into vectors: the files that say how, the encoder, and batches across requests."""
