"""The worker: a peer that runs models for others. `serve.py` puts it together."""
