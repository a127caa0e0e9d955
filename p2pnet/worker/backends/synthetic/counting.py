"""Counts the tokens of prompts for models without a tokenizer, no further than their context. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, islice

from p2pnet.errors import ContextOverflow


def counted(token: re.Pattern[str], texts: Sequence[str], context_length: int) -> int:
    """How many tokens the texts have, at least one. Raises ContextOverflow once they are more than the context holds,
    however many more."""
    found = chain.from_iterable(map(token.finditer, texts))
    count = sum(1 for _ in islice(found, context_length + 1))
    if count > context_length:
        raise ContextOverflow.by_prompt(context_length, count)
    return count or 1
