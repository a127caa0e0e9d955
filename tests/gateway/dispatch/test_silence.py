"""How long a worker may be silent, by its own gaps."""

from __future__ import annotations

import pytest

from gateway.dispatch.silence import (
    FIRST_SUSPICION_S,
    GIVE_UP,
    MIN_GIVE_UP_S,
    MIN_SAMPLES,
    MIN_SUSPICION_S,
    SUSPICION,
    UNKNOWN_GIVE_UP_S,
    give_up_s,
    suspicion_s,
)
from gateway.peers.pace import Window

LIMIT_S = 300.0
FAST, SLOW, SLOWEST = 0.02, 2.0, 100.0


def window(gap_s: float, samples: int) -> Window:
    gaps = Window()
    for _ in range(samples):
        gaps.note(gap_s)
    return gaps


@pytest.mark.parametrize(
    ("gap_s", "samples", "has_token", "suspicion", "give_up"),
    [
        (FAST, 0, False, FIRST_SUSPICION_S, LIMIT_S),
        (FAST, 50, False, FIRST_SUSPICION_S, LIMIT_S),
        (FAST, MIN_SAMPLES - 1, True, FIRST_SUSPICION_S, UNKNOWN_GIVE_UP_S),
        (FAST, MIN_SAMPLES, True, MIN_SUSPICION_S, MIN_GIVE_UP_S),
        (SLOW, 50, True, SUSPICION * SLOW, GIVE_UP * SLOW),
        (SLOWEST, 50, True, SUSPICION * SLOWEST, LIMIT_S),
    ],
)
def test_what_is_long_for_one_is_usual_for_another(
    gap_s: float, samples: int, has_token: bool, suspicion: float, give_up: float
) -> None:
    gaps = window(gap_s, samples)
    assert suspicion_s(gaps, has_token) == pytest.approx(suspicion)
    assert give_up_s(gaps, has_token, LIMIT_S) == pytest.approx(give_up)


def test_the_limit_for_all_holds_for_each() -> None:
    assert give_up_s(window(FAST, 50), True, 1.0) == 1.0
    assert give_up_s(window(FAST, 0), False, 1.0) == 1.0
