"""Runs models for other peers. `serve.py` puts a worker together."""
