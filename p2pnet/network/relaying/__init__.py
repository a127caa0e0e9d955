"""Relays for peers that nobody can dial: their places, and circuits to them, within limits that are kept and shown."""
