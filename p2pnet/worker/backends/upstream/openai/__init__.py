"""Speaks to servers with OpenAI's API: `models` reads their lists, `dialect` asks, `reader` reads the answers."""
