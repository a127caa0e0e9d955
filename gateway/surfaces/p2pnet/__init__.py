"""The gateway's own HTTP API: what it knows of workers, models and requests."""
