"""Serves one request: a worker, and another one when that fails, as one unbroken answer."""
