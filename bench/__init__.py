"""Benchmarks: what the network costs, how it bears faults, and how fast the engine is. Each says how it is run."""
