"""Backends without weights: their answers follow from rules or from a script."""
