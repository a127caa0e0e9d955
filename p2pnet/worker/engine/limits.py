"""Computes how many tokens a request may generate in a model's context."""

from __future__ import annotations

from p2pnet.errors import ContextOverflow


def tokens_to_generate(prompt_tokens: int, max_tokens: int | None, context_length: int, clamp: bool = False) -> int:
    """How many tokens to generate: `max_tokens`, or as many as the context still holds; with `clamp`, whichever is
    less. Raises ContextOverflow, worded as OpenAI words it."""
    room = context_length - prompt_tokens
    wanted = 1 if max_tokens is None or clamp else max_tokens
    if wanted > room:
        raise ContextOverflow(
            f"This model's maximum context length is {context_length} tokens, but {prompt_tokens + wanted} were "
            f"requested: {prompt_tokens} in the prompt and {wanted} to generate.",
            "prompt" if room < 1 else "max_tokens",
        )
    return room if max_tokens is None else min(room, max_tokens)
