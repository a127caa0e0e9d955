"""Finds out which workers there are at this moment, from the directory and by probing."""
