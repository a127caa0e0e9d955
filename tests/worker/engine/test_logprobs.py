"""Logprobs are the model's own, named with their bytes, and always numbers that JSON has."""

from __future__ import annotations

import math

import pytest
import torch

from p2pnet.errors import WorkerFailed
from p2pnet.worker.engine.logprobs import IMPOSSIBLE, token_logprob

PROBABILITIES = [0.1, 0.2, 0.3, 0.4]
INFINITE = float("inf")


def token_bytes(token_id: int) -> bytes:
    return bytes([97 + token_id])


@pytest.mark.parametrize(
    ("token_id", "top", "likeliest"),
    [
        pytest.param(0, 0, [], id="itself alone"),
        pytest.param(0, 1, [3], id="the likeliest, whatever was sampled"),
        pytest.param(3, 2, [3, 2], id="likeliest first"),
        pytest.param(1, 20, [3, 2, 1, 0], id="no more than there are"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_token_logprob(token_id: int, top: int, likeliest: list[int], dtype: torch.dtype) -> None:
    logits = (torch.tensor(PROBABILITIES).log() + 5).to(dtype)
    found = token_logprob(logits, token_id, top, token_bytes)
    tolerance = 0.05 if dtype is torch.bfloat16 else 1e-6
    assert (found.token_id, found.token) == (token_id, token_bytes(token_id))
    assert found.logprob == pytest.approx(math.log(PROBABILITIES[token_id]), abs=tolerance)
    assert [other.token_id for other in found.top] == likeliest
    assert [other.token for other in found.top] == [token_bytes(other) for other in likeliest]
    for other in found.top:
        assert other.logprob == pytest.approx(math.log(PROBABILITIES[other.token_id]), abs=tolerance)


def test_what_cannot_be_is_a_number_too() -> None:
    found = token_logprob(torch.tensor([0.0, -INFINITE]), 1, 2, token_bytes)
    assert found.logprob == IMPOSSIBLE
    assert [other.logprob for other in found.top] == [0.0, IMPOSSIBLE]


@pytest.mark.parametrize("bad", [float("nan"), INFINITE])
def test_logits_that_are_not_numbers(bad: float) -> None:
    with pytest.raises(WorkerFailed):
        token_logprob(torch.tensor([0.0, bad, 1.0]), 0, 1, token_bytes)


def test_logits_are_not_changed() -> None:
    logits = torch.tensor(PROBABILITIES)
    token_logprob(logits, 0, 4, token_bytes)
    assert logits.tolist() == torch.tensor(PROBABILITIES).tolist()
