"""Serves some layers of a model to the drivers of chains."""
