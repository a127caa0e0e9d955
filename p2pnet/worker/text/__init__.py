"""Turns prompts into token ids and token ids into text, and holds answers to their form."""
