"""Puts values into the form in which people read them."""
