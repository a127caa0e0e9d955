"""Requests that wait for a worker: who is let in, and who is next."""
