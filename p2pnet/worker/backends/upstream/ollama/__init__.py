"""Speaks to Ollama: `models` reads what it has, `dialect` asks, `reader` reads the answers."""
