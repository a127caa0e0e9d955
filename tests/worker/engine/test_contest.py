"""The margin of a token: 0 for the one that is sampled, and for others how much the scores would have to change."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from p2pnet.messages import Sampling
from p2pnet.worker.engine.contest import Contest
from p2pnet.worker.engine.nucleus import Nucleus
from p2pnet.worker.engine.race import Race
from p2pnet.worker.engine.sampler import Sampler
from p2pnet.worker.engine.scores import Scores
from tests.depth import scaled

SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"temperature": 1.0, "top_k": 1},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 2.0, "top_p": 0.9},
    {"temperature": 0.7, "top_p": 0.5},
    {"temperature": 1.0, "top_p": 0.05},
    {"temperature": 1.5, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.5, "top_k": 40, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 0.02},
    {"temperature": 0.0, "repetition_penalty": 50.0},
]
SIZE = 700
"""Two whole blocks of ids, and a short one."""


def scores_of(seed: int, size: int = SIZE) -> Scores:
    return (np.random.default_rng(seed).standard_normal(size) * 2).astype(np.float32)


def contest(scores: Scores, seed: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Contest:
    return Contest(Race(scores, temperature, seed, 3), Nucleus(scores, temperature, top_k, top_p, 0.0))


def chosen_and_margins(
    setting: dict[str, float], scores: Scores, seed: int, given: list[int]
) -> tuple[int, list[float]]:
    sampler = Sampler(Sampling(seed=seed, **setting), 1)  # type: ignore[arg-type]
    logits = torch.from_numpy(scores)
    return sampler.choose(logits, [1, 2]), sampler.margins(logits, [1, 2], given)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_the_token_that_is_sampled_has_none_and_every_other_one_has_one(setting: dict[str, float]) -> None:
    for seed in range(scaled(ci=2, deep=50)):
        scores = scores_of(seed)
        chosen, margins = chosen_and_margins(setting, scores, seed, list(range(SIZE)))
        assert margins[chosen] == 0.0
        assert [token_id for token_id, margin in enumerate(margins) if margin == 0.0] == [chosen]
        assert all(0 <= margin <= 0.5 for margin in margins)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_score_that_is_wrong_by_so_much_gives_a_margin_of_more_than_twice_that(setting: dict[str, float]) -> None:
    """Given a worker whose scores differ by at most e, whatever it samples has a margin of at most 2 e here."""
    draw = np.random.default_rng(7)
    for seed, wrong in product(range(scaled(ci=15, deep=2000)), (1e-4, 0.01, 0.1)):
        scores = scores_of(seed)
        theirs = scores + draw.choice([-wrong, wrong], SIZE).astype(np.float32)
        chosen, _ = chosen_and_margins(setting, theirs, seed, [0])
        _, (margin,) = chosen_and_margins(setting, scores, seed, [chosen])
        assert margin <= 2 * wrong + 2e-6


def test_the_margin_is_the_gap_in_units_of_logits() -> None:
    scores, temperature = scores_of(1) / 4, 0.2
    race = Race(scores, temperature, 9, 3)
    values = np.array([race.value(token_id) for token_id in range(SIZE)]) * temperature
    expected = np.minimum(0.5, values.max() - values)
    found = [contest(scores, 9, temperature).margin(token_id) for token_id in range(SIZE)]
    assert found == pytest.approx(expected.tolist(), abs=1e-9)
    assert len({margin for margin in found if margin < 0.5}) > 3


def test_what_is_beyond_an_edge_has_its_way_in_and_what_is_within_beats_by_its_way_out() -> None:
    scores = np.full(300, -20.0, np.float32)
    scores[:3] = 3.0, 2.0, 1.9
    of_races = [contest(scores, seed, top_k=2) for seed in range(100)]
    best = [int(np.argmax([each._race.value(token_id) for token_id in range(3)])) for each in of_races]
    beyond = of_races[best.index(2)]
    assert beyond.winner() != 2 and beyond.margin(2) == pytest.approx(0.1, abs=1e-6)
    within = of_races[best.index(1)]
    assert within.winner() == 1 and within.margin(0) == pytest.approx(0.1, abs=1e-6)


def test_a_nucleus_is_as_near_as_the_odds_of_what_is_likelier() -> None:
    """Where the likelier ones have 0.6 together, and top_p is 0.5, then log(1.5) of their odds are too much."""
    scores = np.log(np.array([0.6, 0.3, 0.1])).astype(np.float32)
    for top_p, expected in ((0.5, 0.5 - 0.5 - math.log(1.5)), (0.59, math.log(0.59 / 0.41) - math.log(1.5))):
        depth = Nucleus(scores, 1.0, 0, top_p, 0.0).depth(float(scores[1]), 0.5)
        assert depth == pytest.approx(expected, abs=1e-5)
    assert Nucleus(scores, 1.0, 0, 0.95, 0.0).depth(float(scores[1]), 0.5) == 0.5


def test_a_token_that_the_form_forbids_has_the_most_and_so_has_an_end_token_that_comes_too_early() -> None:
    sampler = Sampler(Sampling(seed=1), 1)
    logits = torch.from_numpy(scores_of(3))
    allowed = torch.ones(SIZE, dtype=torch.bool)
    allowed[5] = False
    assert sampler.margins(logits, [1], [5, 6], allowed, forbidden=[6]) == [0.5, 0.5]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_nothing_else_wins_by_less_than_the_lead(setting: dict[str, float]) -> None:
    for seed in range(scaled(ci=2, deep=50)):
        scores = scores_of(seed)
        chosen, margins = chosen_and_margins(setting, scores, seed, list(range(SIZE)))
        sampler = Sampler(Sampling(seed=seed, **setting), 1)  # type: ignore[arg-type]
        expected = min(margin for token_id, margin in enumerate(margins) if token_id != chosen)
        lead = sampler.lead(torch.from_numpy(scores), [1, 2])
        assert (lead > 0 or "min_p" in setting) and lead <= expected + 1e-9
        assert lead == pytest.approx(expected, abs=1e-9) or len(setting) > 1


@pytest.mark.parametrize("temperature", [0.0, 1e-4])
def test_a_penalty_that_stretches_errors_stretches_no_margin(temperature: float) -> None:
    """Given two tokens that differ by 0.001 before a penalty of 1/50, and by 0.05 after it."""
    logits = torch.zeros(SIZE)
    logits[1], logits[2] = 2.0, 1.999
    sampler = Sampler(Sampling(temperature=temperature, repetition_penalty=0.02), 1)
    assert sampler.choose(logits, [1, 2]) == 1
    assert sampler.margins(logits, [1, 2], [1, 2]) == pytest.approx([0.0, 0.001], abs=2e-5)
    assert sampler.lead(logits, [1, 2]) == pytest.approx(0.001, abs=2e-5)
