"""Serves the models that an OpenAI-compatible server, Ollama or TEI already runs.

`backend` puts it together: `session` speaks HTTP, `models` polls, `openai` and `ollama` translate. It
passes prompts on and never tokenizes, so none of it needs torch.
"""
