"""How often rounding changes a token, and what choosing one costs."""
