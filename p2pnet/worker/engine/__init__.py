"""Computes answers in batches: schedule, run, sample, and the memory for keys and values."""
