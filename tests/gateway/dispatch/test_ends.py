"""Which ends of answers are doubted, as a table, and how often a gateway may doubt in vain."""

from __future__ import annotations

import pytest

from gateway.dispatch.doubt import MAX_EXTRA_WORK, MAX_SAVED, DoubtCredit
from gateway.dispatch.ends import SHORT_TOKENS, SLACK_TOKENS, EndSeen, is_doubtful


@pytest.mark.parametrize(
    ("end", "of_anybody", "of_who_is_outranked"),
    [
        (EndSeen("stop", 0), True, True),
        (EndSeen("length", 0), True, True),
        (EndSeen("tool_calls", 0), True, True),
        (EndSeen("content_filter", 0), True, True),
        (EndSeen("stop", 1), False, True),
        (EndSeen("stop", SHORT_TOKENS - 1, room=100), False, True),
        (EndSeen("stop", SHORT_TOKENS, room=100), False, False),
        (EndSeen("stop", 50, is_below_minimum=True), True, True),
        (EndSeen("length", 50, room=0), False, False),
        (EndSeen("length", 50, room=SLACK_TOKENS), False, False),
        (EndSeen("length", 50, room=SLACK_TOKENS + 1), True, True),
        (EndSeen("length", 50, room=None), False, False),
        (EndSeen("tool_calls", 2), False, False),
        (EndSeen("content_filter", 2), False, False),
    ],
)
def test_which_ends_are_doubtful(end: EndSeen, of_anybody: bool, of_who_is_outranked: bool) -> None:
    assert (is_doubtful(end, False), is_doubtful(end, True)) == (of_anybody, of_who_is_outranked)


def test_honest_empty_answers_cost_little() -> None:
    credit, asked = DoubtCredit(), 0
    for _ in range(1000):
        credit.note_request()
        asked += credit.spend()
    assert asked <= MAX_SAVED + 1000 * MAX_EXTRA_WORK


def test_what_was_not_in_vain_costs_nothing() -> None:
    credit, asked = DoubtCredit(), 0
    for _ in range(1000):
        if credit.spend():
            asked += 1
            credit.give_back()
    assert asked == 1000
