"""How many drafts are checked at once: by how many were right, what a pass takes, and who waits beside."""

from __future__ import annotations

import pytest

from p2pnet.worker.speculation.window import MAX_WINDOW, Acceptance, StepCost, best_window, tokens_expected

SLOW_LINE = StepCost(fixed_s=0.4, token_s=0.002)
NO_LINE = StepCost(fixed_s=0.02, token_s=0.01)
"""A machine that computes two tokens in nearly twice the time of one."""


@pytest.mark.parametrize(
    ("rate", "cost", "others", "most", "draft_s", "drafts"),
    [
        (0.0, SLOW_LINE, 0, 16, 0.0, 0),  # what is never right is not worth a token
        (0.05, SLOW_LINE, 0, 16, 0.0, 1),
        (0.6, SLOW_LINE, 0, 16, 0.0, 8),
        (0.9, SLOW_LINE, 0, 16, 0.0, 16),
        (1.0, SLOW_LINE, 0, 16, 0.0, 16),
        (1.0, SLOW_LINE, 0, 3, 0.0, 3),
        (1.0, SLOW_LINE, 0, 0, 0.0, 0),  # no room
        (1.0, SLOW_LINE, 0, -1, 0.0, 0),
        (0.2, NO_LINE, 0, 16, 0.0, 0),  # where computing is all that it takes, a wrong one costs
        (0.6, NO_LINE, 0, 16, 0.0, 1),
        (0.9, NO_LINE, 0, 16, 0.0, 5),
        (0.6, SLOW_LINE, 31, 16, 0.0, 3),  # thirty-one others wait for each
        (0.6, NO_LINE, 31, 16, 0.0, 0),
        (0.6, SLOW_LINE, 0, 16, 0.05, 3),  # a model that is slow itself
        (0.6, SLOW_LINE, 0, 16, 1.0, 0),
    ],
)
def test_as_many_are_checked_as_make_the_most_tokens_a_second(
    rate: float, cost: StepCost, others: int, most: int, draft_s: float, drafts: int
) -> None:
    assert best_window(rate, cost, others, most, draft_s).drafts == drafts


@pytest.mark.parametrize(("steps", "drafts"), [(1, 2), (2, 2), (8, 1), (16, 0)])
def test_drafts_of_all_steps_are_made_one_after_the_other(steps: int, drafts: int) -> None:
    """While they wait over a slow line that costs nothing; then whoever makes them holds all of them up."""
    assert best_window(0.6, SLOW_LINE, 3, 16, draft_s=0.03, steps=steps).drafts == drafts


def test_a_window_says_what_it_comes_to() -> None:
    assert best_window(0.0, StepCost(0.4, 0.1), 0, 4).tokens_per_s == pytest.approx(2.0)
    assert best_window(1.0, StepCost(1.0, 0.0), 3, 4).tokens_per_s == pytest.approx(8.0)


@pytest.mark.parametrize(("rate", "drafts", "tokens"), [(0.0, 5, 1.0), (1.0, 5, 6.0), (0.5, 2, 1.75), (0.6, 0, 1.0)])
def test_a_pass_gives_one_token_and_those_that_were_right(rate: float, drafts: int, tokens: float) -> None:
    assert tokens_expected(rate, drafts) == pytest.approx(tokens)


def test_the_latest_drafts_say_how_the_next_ones_will_do() -> None:
    acceptance = Acceptance()
    assert acceptance.rate == 0.5
    for _ in range(40):
        acceptance = acceptance.after(True)
    assert acceptance.rate > 0.95
    assert best_window(acceptance.rate, SLOW_LINE, 0, MAX_WINDOW).drafts == MAX_WINDOW
    for _ in range(60):
        acceptance = acceptance.after(False)
    assert acceptance.rate < 0.05
    assert best_window(acceptance.rate, NO_LINE, 0, MAX_WINDOW).drafts == 0
