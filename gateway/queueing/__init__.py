"""Requests that wait for a worker: which are let in, and which is next."""
