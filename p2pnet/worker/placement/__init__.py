"""Decides which layers of a model a machine serves, and moves it to where others are lacking."""
