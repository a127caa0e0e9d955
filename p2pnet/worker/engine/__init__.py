"""Computes answers in batches: schedules, runs and samples, and keeps keys and values."""
