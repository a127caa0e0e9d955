"""Compares what two servers elsewhere say to the same prompt, greedily. Pure.

They name no ids, so nobody can say of an answer that it comes from the model. But two that say that they run the same
files say the same to begin with, until a rounding leads one elsewhere. So who says other things than others from the
first words on runs something else, or they do: which of them, is not known, and nobody is flagged for it.
"""

from __future__ import annotations

import msgspec

from p2pnet.messages import GenerateRequest, Sampling

ALIKE_CHARS = 32
"""A beginning of so many characters, some eight tokens, is the same on most machines."""

COMPARED_TOKENS = 24
"""As many as it takes for that, also where a model begins with what it thinks."""


def greedy(request: GenerateRequest) -> GenerateRequest:
    """The same prompt at temperature 0, for a short answer."""
    return msgspec.structs.replace(request, sampling=Sampling(request.sampling.seed, 0.0), max_tokens=COMPARED_TOKENS)


def are_alike(text: str, other: str) -> bool:
    """Whether they begin alike. Two that say nothing say nothing of one another."""
    begin, others = text.strip()[:ALIKE_CHARS], other.strip()[:ALIKE_CHARS]
    length = min(len(begin), len(others))
    return length > 0 and begin[:length] == others[:length]
