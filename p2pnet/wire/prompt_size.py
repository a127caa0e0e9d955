"""Says how many tokens a prompt has at least, without a tokenizer: what cannot fit is refused before anybody makes
tokens of it. Pure."""

from __future__ import annotations

from p2pnet.messages import Prompt, TextPrompt, TokenPrompt

MAX_TOKEN_CHARS = 256
"""Of a prompt a token stands for fewer characters than this, in every vocabulary: the longest tokens that are known are
128 spaces. So a text that is this much longer than a context does not fit, and nobody has to make tokens of it."""

CUT_ROLES = frozenset({"assistant"})
"""Whose messages chat templates may leave out in part: what a model has thought does not come back to it."""


def least_tokens_of(prompt: Prompt) -> int:
    """Never more than there will be."""
    if isinstance(prompt, TokenPrompt):
        return len(prompt.token_ids)
    if isinstance(prompt, TextPrompt):
        return (len(prompt.text) + len(prompt.suffix)) // MAX_TOKEN_CHARS
    read = (message.content for message in prompt.messages if message.role not in CUT_ROLES)
    return sum(len(content.strip()) for content in read) // MAX_TOKEN_CHARS  # templates strip them, too
