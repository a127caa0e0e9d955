"""Keeps the worker's records in the directory."""
