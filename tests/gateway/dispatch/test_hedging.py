"""Second requests: how late is late, and how many there may be."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.hedging import (
    MAX_EXTRA_WORK,
    MAX_MODELS,
    MAX_SAVED,
    MIN_DELAY_S,
    MIN_SAMPLES,
    UNKNOWN_DELAY_S,
    Hedging,
)

KEY = ("tiny", "generate")


def test_how_late_is_late_is_not_known_before_enough_was_seen() -> None:
    hedging = Hedging()
    for number in range(MIN_SAMPLES):
        assert hedging.delay_s(KEY) == UNKNOWN_DELAY_S
        hedging.note_first_token(KEY, float(number))
    assert hedging.delay_s(KEY) == 18.0  # the 95th percentile of 0, 1, ... 19
    assert hedging.delay_s(("other", "generate")) == UNKNOWN_DELAY_S


def test_nobody_notices_what_is_less_than_a_blink() -> None:
    hedging = Hedging()
    for _ in range(MIN_SAMPLES):
        hedging.note_first_token(KEY, 0.001)
    assert hedging.delay_s(KEY) == MIN_DELAY_S


def test_names_of_models_are_forgotten_oldest_use_first() -> None:
    hedging = Hedging()
    for _ in range(MIN_SAMPLES):
        hedging.note_first_token(KEY, 1.0)
    for number in range(3 * MAX_MODELS):
        hedging.note_first_token((f"model-{number}", "generate"), 1.0)
        if number % 100 == 0:
            hedging.note_first_token(KEY, 1.0)
    assert hedging.delay_s(KEY) == 1.0
    assert len(hedging._first_tokens) == MAX_MODELS


@given(st.integers(0, 1 << 32), st.floats(0, 1))
def test_there_are_never_more_than_a_twentieth_beyond_a_burst(seed: int, share: float) -> None:
    hedging, rng = Hedging(), random.Random(seed)
    sent: list[bool] = []
    for _ in range(1000):
        hedging.note_request()
        late = 1 + (rng.random() < share)
        for _ in range(late):
            sent.append(hedging.spend())
        assert sum(sent) <= 1 + MAX_EXTRA_WORK * 1000
    assert sum(sent) <= 1 + MAX_EXTRA_WORK * 1000


@pytest.mark.parametrize("quiet", [20, 100, 10_000])
def test_a_burst_of_late_ones_is_answered_by_so_many_and_no_more(quiet: int) -> None:
    hedging = Hedging()
    for _ in range(quiet):
        hedging.note_request()
    spent = sum(hedging.spend() for _ in range(100))
    assert 1 <= spent <= MAX_SAVED
    for _ in range(10_000):
        hedging.note_request()
        spent += hedging.spend()
    assert spent <= 1 + MAX_SAVED + MAX_EXTRA_WORK * 10_000
