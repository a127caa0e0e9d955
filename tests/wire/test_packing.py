"""Packing: groups hold as much as fits, nothing is lost or moved, and no size is underestimated."""

from __future__ import annotations

import msgspec
import pytest

from p2pnet.messages import TextDelta, TokenLogprob, ToolCallDelta, TopLogprob
from p2pnet.wire.packing import cut, delta_bytes, groups

GROUPS: list[tuple[str, list[int], list[list[int]]]] = [
    ("nothing", [], []),
    ("all together", [4, 3, 3], [[4, 3, 3]]),
    ("one too many", [4, 3, 4], [[4, 3], [4]]),
    ("larger than allowed", [3, 11, 3], [[3], [11], [3]]),
    ("without a size", [10, 0, 10, 0], [[10, 0], [10, 0]]),
]


@pytest.mark.parametrize(("sizes", "expected"), [case[1:] for case in GROUPS], ids=[case[0] for case in GROUPS])
def test_groups(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(groups(sizes, lambda size: size, 10)) == expected


@pytest.mark.parametrize("text", ["", "a", "abc", "abcd", "abcdefg"])
def test_a_cut_text_is_the_same_text(text: str) -> None:
    parts = list(cut(text, 3))
    assert "".join(parts) == text and all(0 < len(part) <= 3 for part in parts)


TOP = tuple(TopLogprob((1 << 31) - 1, b"\xff" * 9, -1.5) for _ in range(20))
DELTAS = [
    TextDelta("\U0001f600" * 1000),
    TextDelta("", tuple((1 << 31) - 1 - index for index in range(1000))),
    TextDelta("a" * 100, logprobs=tuple(TokenLogprob((1 << 31) - 1, b"\xff" * 40, -0.25, TOP) for _ in range(50))),
    TextDelta(tool_calls=tuple(ToolCallDelta(300, "c" * 40, "\U0001f600" * 40, '"' * 400) for _ in range(50))),
]


@pytest.mark.parametrize("delta", DELTAS, ids=["text", "ids", "logprobs", "calls"])
def test_no_delta_is_larger_than_is_said(delta: TextDelta) -> None:
    around = len(msgspec.msgpack.encode(TextDelta("a", (1,), 15, is_prompt=True))) + 32
    assert len(msgspec.msgpack.encode(delta)) <= delta_bytes(delta) + around
