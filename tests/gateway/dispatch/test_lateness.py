"""What is too slow, as tables, and the pace of an answer's last seconds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.lateness import (
    COLD_S,
    FIRST_TOKEN_TIMES,
    MIN_FIRST_TOKEN_S,
    MIN_TOKEN_S,
    READ_S,
    STRETCH_S,
    TOKEN_TIMES,
    Stretch,
    first_token_limit_s,
    token_limit_s,
)

NEVER = float("-inf")


@pytest.mark.parametrize(
    ("usual_s", "prompt_tokens", "is_cold", "patience", "expected_s"),
    [
        (1.0, 10, False, 1.0, FIRST_TOKEN_TIMES),
        (0.001, 0, False, 1.0, MIN_FIRST_TOKEN_S),
        (0.001, 4000, False, 1.0, MIN_FIRST_TOKEN_S + 4000 * READ_S),
        (1.0, 10, False, 4.0, 4 * FIRST_TOKEN_TIMES),
        (1.0, 10, True, 1.0, COLD_S),
        (60.0, 10, True, 1.0, FIRST_TOKEN_TIMES * 60),
    ],
)
def test_a_first_token(usual_s: float, prompt_tokens: int, is_cold: bool, patience: float, expected_s: float) -> None:
    assert first_token_limit_s(usual_s, prompt_tokens, is_cold, patience) == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("usual_s", "patience", "expected_s"),
    [(0.1, 1.0, TOKEN_TIMES * 0.1), (0.001, 1.0, MIN_TOKEN_S), (0.1, 2.0, 2 * TOKEN_TIMES * 0.1)],
)
def test_a_pace(usual_s: float, patience: float, expected_s: float) -> None:
    assert token_limit_s(usual_s, patience) == pytest.approx(expected_s)


def paced(*tokens: tuple[float, int]) -> tuple[Stretch, float]:
    """An answer whose parts came after so many seconds, and the time now."""
    stretch, now_s = Stretch(0.0), 0.0
    for waited_s, count in tokens:
        now_s += waited_s
        stretch.note(waited_s, count, now_s)
    return stretch, now_s


@pytest.mark.parametrize(
    ("tokens", "waits_s", "expected_s"),
    [
        ([], 0.9 * STRETCH_S, None),
        ([], STRETCH_S, STRETCH_S),
        ([], 9.0, 9.0),
        ([(9.0, 1)], 0.5, 9.5 / 2),  # so far there is one stretch and a little more
        ([(9.0, 1), (9.0, 1)], 1.5, 10.5 / 2),
        ([(STRETCH_S, 1)] * 10, 0.5, 2.5 / 2),
        ([(0.25, 1)] * 8, 1.5, 3.5 / 9),  # quick until now
        ([(0.25, 1)] * 8, STRETCH_S, STRETCH_S),
        ([(0.25, 1)] * 12, 0.5, 3.5 / 13),
        ([(0.25, 1)] * 12, 1.5, 2.5 / 5),
        ([(1.5, 100)], 1.0, 2.5 / 101),
    ],
)
def test_the_pace_is_that_of_the_last_seconds(
    tokens: list[tuple[float, int]], waits_s: float, expected_s: float | None
) -> None:
    stretch, _ = paced(*tokens)
    pace_s = stretch.pace_s(waits_s, NEVER)
    assert pace_s == (None if expected_s is None else pytest.approx(expected_s))


def test_what_a_gateway_that_was_held_up_has_seen_is_nobody_s_pace() -> None:
    stretch, now_s = paced((60.0, 1))
    assert stretch.pace_s(1.0, NEVER) is not None
    assert stretch.pace_s(1.0, now_s + 0.1) is None
    assert stretch.pace_s(STRETCH_S, now_s + 0.1) == STRETCH_S


@given(st.lists(st.tuples(st.floats(0.001, 20), st.integers(1, 50)), max_size=60), st.floats(0, 20))
def test_no_pace_is_slower_than_the_slowest_seconds_nor_found_in_fewer(
    tokens: list[tuple[float, int]], waits_s: float
) -> None:
    stretch, _ = paced(*tokens)
    pace_s = stretch.pace_s(waits_s, NEVER)
    whole_s = sum(waited_s for waited_s, _ in tokens) + waits_s
    if pace_s is not None:
        assert whole_s >= 0.999 * STRETCH_S
        assert pace_s <= max([waits_s, *(waited_s for waited_s, _ in tokens)]) * 1.001


def test_a_token_now_and_then_is_found_out_whatever_its_distance() -> None:
    """No stretch begins or ends so that a slow worker passes for a quick one for long."""
    for gap_s in (0.6, 1.0, 2.4, STRETCH_S - 0.01, STRETCH_S, STRETCH_S + 0.01, 9.0):
        stretch, now_s, slowest_s = Stretch(0.0), 0.0, 0.0
        times = [0.2 * step for step in range(100)]
        due_s = gap_s
        for _, now_s in pairwise(times):
            if now_s >= due_s:
                stretch.note(gap_s, 1, now_s)
                due_s += gap_s
            slowest_s = max(slowest_s, stretch.pace_s(now_s - due_s + gap_s, NEVER) or 0.0)
        assert slowest_s >= gap_s / 2
