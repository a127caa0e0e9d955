"""What the benchmarks share: swarms of real processes, models without weights, and clients that take times."""
