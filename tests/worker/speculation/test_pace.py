"""What a pass takes, from passes that were measured."""

from __future__ import annotations

import pytest

from p2pnet.worker.speculation.pace import PRIOR_SHARE, Pace


def paced(*passes: tuple[int, float]) -> Pace:
    pace = Pace()
    for tokens, seconds in passes:
        pace.note(tokens, seconds)
    return pace


def test_before_any_pass_a_token_is_a_part_of_one() -> None:
    cost = Pace().cost
    assert cost.token_s / cost.fixed_s == PRIOR_SHARE


@pytest.mark.parametrize(("fixed_s", "token_s"), [(0.4, 0.002), (0.02, 0.01), (0.5, 0.0)])
def test_passes_of_different_lengths_say_what_a_token_takes(fixed_s: float, token_s: float) -> None:
    cost = paced(*((tokens, fixed_s + token_s * tokens) for tokens in (1, 9, 1, 5, 17, 1, 17, 3) * 3)).cost
    assert cost.fixed_s == pytest.approx(fixed_s, rel=0.1)
    assert cost.token_s == pytest.approx(token_s, rel=0.1, abs=0.001)


def test_passes_that_are_all_alike_say_nothing_of_a_token() -> None:
    cost = paced(*[(1, 0.34)] * 200).cost
    assert cost.token_s == pytest.approx(0.34 * PRIOR_SHARE)
    assert cost.fixed_s + cost.token_s == pytest.approx(0.34)


def test_what_was_slow_once_is_tried_again() -> None:
    slow = [(1, 0.1), (17, 1.7)] * 5
    assert paced(*slow).cost.fixed_s < 0.01
    assert paced(*slow, *[(1, 0.1)] * 200).cost.fixed_s > 0.09


@pytest.mark.parametrize("passes", [[(1, 1.0), (20, 0.1)], [(1, 0.001), (20, 9.0)]])
def test_nothing_takes_less_than_no_time(passes: list[tuple[int, float]]) -> None:
    cost = paced(*passes * 5).cost
    assert cost.fixed_s >= 0
    assert cost.token_s >= 0


def test_the_least_time_is_that_of_late() -> None:
    pace = paced((1, 0.5), (1, 0.3), (1, 0.6))
    assert 0.3 < pace.least_s < 0.31
    for _ in range(100):
        pace.note(1, 0.6)
    assert pace.least_s == pytest.approx(0.6, rel=0.01)
    pace.forget()
    assert pace.least_s == 0.0
    assert pace.cost == Pace().cost
