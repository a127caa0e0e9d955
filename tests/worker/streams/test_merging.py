"""Merging: deltas that wait say in fewer frames what they said one by one."""

from __future__ import annotations

import random

import pytest

from p2pnet.messages import (
    Accepted,
    Finished,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, encode_frame
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.streams.merging import merged

A, B = TextDelta("a", (1,)), TextDelta("b", (2, 3))
ACCEPTED, FINISHED = Accepted(1), Finished("stop", Usage(1, 1))
L1, L2 = TokenLogprob(1, b"a", -0.5), TokenLogprob(2, b"b", -0.25, (TopLogprob(2, b"b", -0.25),))


def calls(*pieces: ToolCallDelta) -> TextDelta:
    return TextDelta(token_ids=(9,), tool_calls=pieces)


def more(index: int, arguments: str) -> TextDelta:
    return calls(ToolCallDelta(index, arguments=arguments))


MERGED: dict[str, tuple[list[BackendEvent], list[BackendEvent]]] = {
    "nothing": ([], []),
    "one": ([A], [A]),
    "two": ([A, B], [TextDelta("ab", (1, 2, 3))]),
    "no delta": ([ACCEPTED], [ACCEPTED]),
    "a whole answer": ([ACCEPTED, A, B, FINISHED], [ACCEPTED, TextDelta("ab", (1, 2, 3)), FINISHED]),
    "apart": ([A, ACCEPTED, B], [A, ACCEPTED, B]),
    "ids alone": ([TextDelta("", (1,)), TextDelta("", (2,))], [TextDelta("", (1, 2))]),
    "text alone": ([TextDelta("é"), TextDelta("")], [TextDelta("é")]),
    "text without ids stays apart from what has ids": (
        [A, B, TextDelta("c")],
        [TextDelta("ab", (1, 2, 3)), TextDelta("c")],
    ),
    "and text of which some comes with ids": ([TextDelta("c"), A, TextDelta("d")], [TextDelta("c"), A, TextDelta("d")]),
    "logprobs": (
        [TextDelta("a", (1,), logprobs=(L1,)), TextDelta("b", (2,), logprobs=(L2,))],
        [TextDelta("ab", (1, 2), logprobs=(L1, L2))],
    ),
    "the echo stays apart": (
        [TextDelta("p", (7,), is_prompt=True), TextDelta("q", (8,), is_prompt=True), A, B],
        [TextDelta("pq", (7, 8), is_prompt=True), TextDelta("ab", (1, 2, 3))],
    ),
    "choices that take turns": (
        [A, TextDelta("x", (5,), choice=1), B, TextDelta("y", (6,), choice=1)],
        [TextDelta("ab", (1, 2, 3)), TextDelta("xy", (5, 6), choice=1)],
    ),
    "a call's pieces": (
        [calls(ToolCallDelta(0, "c0", "now")), more(0, '{"a":'), more(0, "1}")],
        [TextDelta(token_ids=(9, 9, 9), tool_calls=(ToolCallDelta(0, "c0", "now", '{"a":1}'),))],
    ),
    "two calls": (
        [calls(ToolCallDelta(0, "c0", "f", "{}")), calls(ToolCallDelta(1, "c1", "f")), more(1, "{}")],
        [
            TextDelta(
                token_ids=(9, 9, 9),
                tool_calls=(ToolCallDelta(0, "c0", "f", "{}"), ToolCallDelta(1, "c1", "f", "{}")),
            )
        ],
    ),
    "text before a call": ([A, calls(ToolCallDelta(0, "c0", "f"))], [A, calls(ToolCallDelta(0, "c0", "f"))]),
    "text between calls": (
        [calls(ToolCallDelta(0, "c0", "f")), A, B, calls(ToolCallDelta(1, "c1", "f"))],
        [calls(ToolCallDelta(0, "c0", "f")), TextDelta("ab", (1, 2, 3)), calls(ToolCallDelta(1, "c1", "f"))],
    ),
}


@pytest.mark.parametrize(("events", "expected"), MERGED.values(), ids=MERGED)
def test_merged(events: list[BackendEvent], expected: list[BackendEvent]) -> None:
    assert merged(events) == expected
    assert merged(expected) == expected


@pytest.mark.parametrize("chars", ["a", "é", "語", "🙂"])
@pytest.mark.parametrize(("chars_each", "ids_each"), [(1, 1), (32, 32), (32, 128), (1000, 1000), (0, 2000), (4000, 1)])
def test_merged_deltas_fit_a_frame_whatever_they_hold(chars: str, chars_each: int, ids_each: int) -> None:
    deltas: list[BackendEvent] = [TextDelta(chars * chars_each, (150_000,) * ids_each)] * 256
    together = merged(deltas)
    for delta in together:
        encode_frame(delta, MAX_EVENT_FRAME_BYTES)
    assert len(together) < 256
    assert sum(len(delta.token_ids) for delta in together if isinstance(delta, TextDelta)) == 256 * ids_each
    assert sum(len(delta.text) for delta in together if isinstance(delta, TextDelta)) == 256 * chars_each


@pytest.mark.parametrize("token", [b"a", "語".encode(), b" " * 256])
@pytest.mark.parametrize("top", [0, 5, 20])
def test_merged_logprobs_and_calls_fit_a_frame(token: bytes, top: int) -> None:
    likely = TopLogprob(150_000, token, -12.5)
    entry = TokenLogprob(150_000, token, -0.5, (likely,) * top)
    call = ToolCallDelta((1 << 53) - 1, "🙂" * 128, "🙂" * 128, "🙂" * 100)
    deltas: list[BackendEvent] = [TextDelta("a", (150_000,), 15, (entry,))] * 256
    deltas += [TextDelta(token_ids=(150_000,), tool_calls=(call,))] * 256
    together = merged(deltas)
    for delta in together:
        encode_frame(delta, MAX_EVENT_FRAME_BYTES)
    assert len(together) < 256
    assert sum(len(delta.logprobs) for delta in together if isinstance(delta, TextDelta)) == 256
    assert sum(len(delta.tool_calls) for delta in together if isinstance(delta, TextDelta)) == 256


def test_nothing_is_lost_or_put_out_of_order_within_a_choice() -> None:
    rng = random.Random(4)
    for _ in range(200):
        deltas = [
            TextDelta(rng.choice("xyz"), (number,), rng.randrange(3), is_prompt=rng.random() < 0.2)
            for number in range(rng.randrange(40))
        ]
        together = [event for event in merged(deltas) if isinstance(event, TextDelta)]
        for choice in range(3):
            before = [(d.is_prompt, token) for d in deltas if d.choice == choice for token in d.token_ids]
            after = [(d.is_prompt, token) for d in together if d.choice == choice for token in d.token_ids]
            assert before == after
            assert "".join(d.text for d in deltas if d.choice == choice) == "".join(
                d.text for d in together if d.choice == choice
            )


def test_what_has_ids_says_exactly_what_they_do() -> None:
    """Each id says its own letter; text without ids is of no token."""
    rng = random.Random(5)
    for _ in range(200):
        deltas = [
            TextDelta(chr(97 + token), (token,)) if rng.random() < 0.7 else TextDelta("-")
            for token in (rng.randrange(26) for _ in range(rng.randrange(30)))
        ]
        for delta in merged(deltas):
            assert isinstance(delta, TextDelta)
            said = "".join(chr(97 + token) for token in delta.token_ids)
            assert delta.text == said if said else set(delta.text) <= {"-"}
