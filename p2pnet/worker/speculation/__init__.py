"""Guesses the tokens of answers that come next: from what was said before, or with a small model."""
