"""Runs the models: with our own engine, on another server, or made up for tests."""
