"""Answers without weights, by rules or by a script: backends for tests and benchmarks."""
