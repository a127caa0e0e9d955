"""Computes how likely a model finds tokens: what OpenAI calls logprobs. Knows nothing of sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch

from p2pnet.messages import TokenLogprob, TopLogprob
from p2pnet.worker.engine.scores import as_scores

TokenBytes = Callable[[int], bytes]


def token_logprob(logits: torch.Tensor, token_id: int, top: int, token_bytes: TokenBytes) -> TokenLogprob:
    """The log-probability of one token and of the `top` likeliest ones, from the logits (vocabulary,) in its position.

    It is what the model itself says: before temperature, penalties, bias and constraints. Raises WorkerFailed when the
    logits are not numbers.
    """
    logprobs = torch.log_softmax(as_scores(logits), dim=-1)
    values, ids = torch.topk(logprobs, min(top, len(logprobs)))
    likeliest = tuple(
        TopLogprob(other, token_bytes(other), _finite(value))
        for value, other in zip(values.tolist(), ids.tolist(), strict=True)
    )
    return TokenLogprob(token_id, token_bytes(token_id), _finite(float(logprobs[token_id])), likeliest)


IMPOSSIBLE = -9999.0
"""As OpenAI writes it: JSON has no infinity."""


def _finite(logprob: float) -> float:
    return max(logprob, IMPOSSIBLE)
