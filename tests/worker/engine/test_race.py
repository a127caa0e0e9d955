"""The race gives what comparing every token's value would give, whatever the logits look like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.worker.engine.noise import Noise
from p2pnet.worker.engine.race import Race
from p2pnet.worker.engine.scores import Scores

SIZES = [1, 2, 255, 256, 257, 300, 512, 1000]


def by_hand(scores: Scores, temperature: float, seed: int, position: int, least: float) -> int:
    values = scores.astype(np.float64) / temperature + Noise(seed, position, len(scores)).of(np.arange(len(scores)))
    return int(np.where(scores >= least, values, -np.inf).argmax())


@given(
    size=st.sampled_from(SIZES),
    spread=st.sampled_from([0.0, 0.1, 3.0, 40.0, 1e5]),
    temperature=st.sampled_from([1e-5, 0.1, 0.8, 1.0, 3.0, 100.0]),
    seed=st.integers(0, 2**63 - 1),
    position=st.integers(0, 2**40),
    few=st.booleans(),
)
def test_it_is_won_by_the_largest_value(
    size: int, spread: float, temperature: float, seed: int, position: int, few: bool
) -> None:
    """Also where a form allows few ids only."""
    draw = np.random.default_rng(seed)
    scores: Scores = (draw.standard_normal(size) * spread).astype(np.float32)
    if few:
        scores[draw.permutation(size)[: size - max(1, size // 50)]] = -np.inf
    race = Race(scores, temperature, seed, position)
    assert race.winner() == by_hand(scores, temperature, seed, position, -np.inf)
    least = float(np.quantile(scores[np.isfinite(scores)], 0.9))
    assert race.winner(least) == by_hand(scores, temperature, seed, position, least)


@pytest.mark.parametrize("size", SIZES)
def test_the_likeliest_alone_is_left_above_all_others(size: int) -> None:
    scores = np.arange(size, dtype=np.float32)
    assert Race(scores, 1.0, 1, 1).winner(float(size - 1)) == size - 1
