"""What top_k, top_p and min_p leave is what transformers' processors of these names leave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from p2pnet.worker.engine.nucleus import Nucleus, kth_largest
from p2pnet.worker.engine.scores import Scores, next_larger

CASES = [
    (top_k, top_p, min_p, temperature)
    for top_k in (0, 1, 40, 5000)
    for top_p in (1.0, 0.9, 0.3, 1e-9)
    for min_p in (0.0, 0.05, 1.0)
    for temperature in (0.5, 1.7)
]


def scores_of(seed: int, size: int = 1000) -> Scores:
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def left(scores: Scores, top_k: int, top_p: float, min_p: float, temperature: float) -> list[int]:
    nucleus = Nucleus(scores, temperature, top_k, top_p, min_p)
    return [id for id, score in enumerate(scores.tolist()) if score >= nucleus.least and nucleus.holds(score)]


@pytest.mark.parametrize(("top_k", "top_p", "min_p", "temperature"), CASES)
def test_it_leaves_what_transformers_leaves(top_k: int, top_p: float, min_p: float, temperature: float) -> None:
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    processors += [TopKLogitsWarper(top_k)] if top_k else []
    processors += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    processors += [MinPLogitsWarper(min_p)] if min_p else []
    scores = scores_of(5)
    theirs = processors(torch.tensor([[0]]), torch.from_numpy(scores)[None])[0]
    assert left(scores, top_k, top_p, min_p, temperature) == torch.nonzero(theirs > -torch.inf)[:, 0].tolist()


@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p", "expected"),
    [
        (1, 1.0, 0.0, [1, 2]),
        (2, 1.0, 0.0, [1, 2]),
        (3, 1.0, 0.0, [0, 1, 2, 3]),
        (0, 0.3, 0.0, [1, 2]),
        (0, 0.9, 0.0, [0, 1, 2, 3]),
        (0, 1.0, 1.0, [1, 2]),
        (2, 0.1, 1.0, [1, 2]),
    ],
)
def test_equals_are_in_or_out_together(top_k: int, top_p: float, min_p: float, expected: list[int]) -> None:
    scores = np.log(np.array([0.15, 0.35, 0.35, 0.15], dtype=np.float32))
    assert left(scores, top_k, top_p, min_p, 1.0) == expected


@pytest.mark.parametrize("k", [1, 2, 3, 40, 999, 1000])
def test_the_kth_largest(k: int) -> None:
    scores = scores_of(8)
    assert kth_largest(scores, k) == float(np.sort(scores)[-k])


def test_the_next_larger_score_is_the_next_float32() -> None:
    assert np.float32(1.0) < np.float32(next_larger(1.0)) <= np.float32(1.0) + np.finfo(np.float32).eps
