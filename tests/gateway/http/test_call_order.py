"""Pieces of calls in turns, and text between them, come out one call after the other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.call_order import CallOrder
from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Accepted, Finished, TextDelta, TokenLogprob, ToolCallDelta, Usage

END = Finished("tool_calls", Usage(7, 3))
LIKELY = (TokenLogprob(1, b"t", -0.5),)


def call(index: int, arguments: str = "", choice: int = 0) -> TextDelta:
    """The first piece of a call."""
    return TextDelta(choice=choice, tool_calls=(ToolCallDelta(index, f"c{index}", "f", arguments),))


def more(index: int, arguments: str, choice: int = 0) -> TextDelta:
    return TextDelta(choice=choice, tool_calls=(ToolCallDelta(index, arguments=arguments),))


def said(text: str, choice: int = 0) -> TextDelta:
    return TextDelta(text, choice=choice)


def ordered(events: Sequence[TextDelta]) -> list[list[TextDelta]]:
    """What each event, and at last the end, lets out."""
    order = CallOrder()
    assert order.take(Accepted(7)) == [Accepted(7)]
    steps = [order.take(event) for event in events]
    *rest, end = order.take(END)
    assert end == END
    return [[each for each in step if isinstance(each, TextDelta)] for step in [*steps, rest]]


STORIES: list[tuple[str, list[TextDelta], list[list[TextDelta]]]] = [
    ("text", [said("a"), said("b")], [[said("a")], [said("b")], []]),
    (
        "one call after the other",
        [said("a"), call(0, '{"a":'), more(0, "1}"), call(1, "{}"), said("b")],
        [[said("a")], [call(0, '{"a":')], [more(0, "1}")], [call(1, "{}")], [said("b")], []],
    ),
    (
        "two in turns",
        [call(0), call(1), more(0, "{"), more(1, '{"b":'), more(0, "}"), more(1, "2}")],
        [[call(0)], [], [more(0, "{")], [], [more(0, "}"), call(1), more(1, '{"b":')], [more(1, "2}")], []],
    ),
    (
        "three, of which the first is whole last",
        [call(0), call(1, "{}"), call(2, "{}"), more(0, "{}")],
        [[call(0)], [], [], [more(0, "{}"), call(1, "{}"), call(2, "{}")], []],
    ),
    (
        "text inside a call",
        [call(0, "{"), said("\n"), said("\n"), more(0, "}"), said("b")],
        [[call(0, "{")], [], [], [more(0, "}"), said("\n"), said("\n")], [said("b")], []],
    ),
    (
        "calls that are never whole",
        [call(0, "{"), said("a"), call(1, "oops"), said("b")],
        [[call(0, "{")], [], [], [], [said("a"), call(1, "oops"), said("b")]],
    ),
    (
        "space behind a call that is over",
        [call(0, "{}"), said("a"), more(0, "\n")],
        [[call(0, "{}")], [said("a")], [], []],
    ),
    (
        "choices by themselves",
        [call(0, "{"), said("a", 1), call(0, "{", 1), said("b", 1), said("c"), more(0, "}")],
        [[call(0, "{")], [said("a", 1)], [call(0, "{", 1)], [], [], [more(0, "}"), said("c")], [said("b", 1)]],
    ),
    (
        "all in one delta, with the log-probabilities",
        [
            TextDelta(
                "a", (1,), logprobs=LIKELY, tool_calls=(ToolCallDelta(0, "c0", "f", "{"), ToolCallDelta(1, "c1", "f"))
            )
        ],
        [[TextDelta("a", (1,), logprobs=LIKELY), call(0, "{")], [call(1)]],
    ),
]


@pytest.mark.parametrize(("events", "steps"), [case[1:] for case in STORIES], ids=[case[0] for case in STORIES])
def test_what_comes_while_a_call_is_not_whole_follows_when_it_is(
    events: list[TextDelta], steps: list[list[TextDelta]]
) -> None:
    assert ordered(events) == steps


def test_what_is_in_order_is_passed_on_as_it_is() -> None:
    delta = TextDelta(
        "a", (1, 2), logprobs=LIKELY, tool_calls=(ToolCallDelta(0, "c", "f", "{}"), ToolCallDelta(1, "d", "f"))
    )
    (given_event,) = CallOrder().take(delta)
    assert given_event is delta


def test_a_worker_that_goes_back_to_a_call_is_not_made_sense_of() -> None:
    order = CallOrder()
    order.take(call(0, "{}"))
    order.take(said("a"))
    with pytest.raises(ProtocolViolation):
        order.take(more(0, "more"))


WHOLE = {0: '{"a": [1, {"b": "}"}]}', 1: "{}", 2: '{"c": 3}'}


@given(st.randoms(use_true_random=False))
def test_however_calls_are_mixed_up_each_comes_whole_and_at_once(rng: object) -> None:
    assert hasattr(rng, "randint")
    queues = []
    for index, text in WHOLE.items():
        cut = rng.randint(0, len(text))
        queues.append([call(index), more(index, text[:cut]), more(index, text[cut:])])
    mixed = []
    while queues := [queue for queue in queues if queue]:
        mixed.append(rng.choice(queues).pop(0))
    pieces = [piece for step in ordered(mixed) for delta in step for piece in delta.tool_calls]
    begins = [piece.index for piece in pieces if piece.name]
    for index, text in WHOLE.items():
        assert "".join(piece.arguments for piece in pieces if piece.index == index) == text
    assert [
        index for at, index in enumerate(p.index for p in pieces) if not at or pieces[at - 1].index != index
    ] == begins
