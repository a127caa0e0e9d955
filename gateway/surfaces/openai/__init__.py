"""OpenAI's HTTP API: chat, completions, responses, embeddings, models."""
