"""Which ends of answers are doubted, as a table, and how often a gateway may doubt in vain."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.dispatch.doubt import MAX_EXTRA_WORK, MAX_SAVED, DoubtCredit
from gateway.dispatch.ends import SHORT_TOKENS, SLACK_TOKENS, EndSeen, is_doubtful
from gateway.dispatch.generate_progress import GenerateProgress
from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from tests.stories import ask, card


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


STOP, LENGTH = Finished("stop", Usage(10, 2)), Finished("length", Usage(10, 2))
TWO = (TextDelta("a", (1,)), TextDelta("b", (2,)))


@pytest.mark.parametrize(
    ("request_fields", "deltas", "last", "expected"),
    [
        ({}, (), STOP, EndSeen("stop", 0, room=502)),
        ({}, TWO, STOP, EndSeen("stop", 2, room=500)),
        ({"max_tokens": 9}, TWO, LENGTH, EndSeen("length", 2, room=7)),
        ({"max_tokens": 9, "resume_tokens": (5, 6, 7)}, TWO, LENGTH, EndSeen("length", 2, room=4)),
        ({"min_tokens": 3}, TWO, STOP, EndSeen("stop", 2, room=500, is_below_minimum=True)),
        ({"min_tokens": 3, "resume_tokens": (5,)}, TWO, STOP, EndSeen("stop", 2, room=499)),
        ({"min_tokens": 3}, TWO, Finished("stop", Usage(10, 2), stop="x"), EndSeen("stop", 2, room=500)),
        ({}, (TextDelta("", (1,)),), STOP, EndSeen("stop", 0, room=501)),
        ({}, (TextDelta("held"),), STOP, None),
        ({}, (TextDelta(""),), STOP, EndSeen("stop", 0, room=502)),
        ({"n": 2}, (), STOP, None),
    ],
)
def test_what_an_end_ends(
    request_fields: dict[str, Any], deltas: tuple[TextDelta, ...], last: Finished, expected: EndSeen | None
) -> None:
    progress = GenerateProgress(ask(**request_fields))
    progress.begin(card(features=("text", "resume")))
    for event in (Accepted(10), *deltas):
        progress.take(event)
    assert progress.seen_end(last) == expected


def test_the_end_of_a_part_counts_what_that_part_has_said() -> None:
    progress = GenerateProgress(ask())
    for deltas in (TWO, ()):
        progress.begin(card(features=("text", "resume")))
        for event in (Accepted(10), *deltas):
            progress.take(event)
    assert progress.seen_end(STOP) == EndSeen("stop", 0, room=500)


def test_where_only_the_text_says_where_to_go_on_nobody_is_asked() -> None:
    progress = GenerateProgress(ask())
    progress.begin(card())
    progress.take(Accepted(10))
    assert progress.seen_end(STOP) == EndSeen("stop", 0, room=None)
    progress.take(TextDelta("no ids"))
    assert progress.seen_end(STOP) is None
