"""Drives chains: runs a model whose layers lie at stages elsewhere, and goes on elsewhere when one of them fails."""
