"""Decides which worker a request goes to, on data alone: asks nobody."""
