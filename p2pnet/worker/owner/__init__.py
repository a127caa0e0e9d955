"""Pauses the worker while the machine's owner needs it, or has not lent it at this hour."""
