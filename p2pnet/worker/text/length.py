"""Refuses a text that cannot fit a model's context, without making tokens of all of it.

How many characters a token stands for no number says for every tokenizer: some swallow spaces without end, others take
a word that they do not know for one token. So the beginning of the text is tokenized, and when that alone is too much,
the rest would not make it less.
"""

from __future__ import annotations

from typing import Any

from p2pnet.errors import ContextOverflow

CHARS_PER_TOKEN = 8
"""Twice what a token of English has: a text that is shorter than this for each token of the context is just tokenized,
and of prose that is longer, so much is already too much."""

CERTAIN_FACTOR = 1.5
"""So many times the context in the beginning is too much for certain: where it is cut, in the middle of a word, its
last tokens are others than in the whole text."""


def check_fits(text: str, tokenizer: Any, context_length: int) -> None:
    """Raises ContextOverflow. What it lets through may be too long all the same."""
    chars = CHARS_PER_TOKEN * context_length
    while chars < len(text):
        tokens = len(tokenizer(text[:chars], add_special_tokens=False)["input_ids"])
        if tokens >= CERTAIN_FACTOR * context_length:
            raise ContextOverflow.by_prompt(context_length, tokens)
        chars *= 4
