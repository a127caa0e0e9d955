"""Loads and runs a part of a model: a span of its layers, or what stands before and after them."""
