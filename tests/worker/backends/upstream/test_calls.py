"""Which call a piece belongs to, as servers number them."""

from __future__ import annotations

import pytest

from p2pnet.errors import WorkerFailed
from p2pnet.worker.backends.upstream.openai.calls import Calls

Piece = tuple[int | None, str | None, str | None, str]
"""Index, id, name and arguments."""

SERVERS: list[tuple[str, list[Piece], list[tuple[str, str, str]]]] = [
    (
        "as OpenAI",
        [(0, "a", "f", ""), (0, None, None, "{}"), (1, "b", "g", "{}")],
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    (
        "in turns",
        [(0, "a", "f", ""), (1, "b", "g", ""), (0, None, None, "{"), (1, None, None, "["), (0, None, None, "}")],
        [("a", "f", "{}"), ("b", "g", "[")],
    ),
    (
        "one index, new ids",
        [(0, "a", "f", "{"), (0, None, None, "}"), (0, "b", "f", "{}")],
        [("a", "f", "{}"), ("b", "f", "{}")],
    ),
    (
        "one index, new names without ids",
        [(0, None, "f", "{"), (0, None, None, "}"), (0, None, "g", "{}")],
        [("call_0", "f", "{}"), ("call_1", "g", "{}")],
    ),
    (
        "one index, one name without ids",
        [(0, None, "f", "{}"), (0, "", "f", '{"a":1}')],
        [("call_0", "f", "{}"), ("call_1", "f", '{"a":1}')],
    ),
    (
        "no index, new ids",
        [(None, "a", "f", "{"), (None, None, None, "}"), (None, "b", "g", "{}")],
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    (
        "id and name with every piece",
        [(0, "a", "f", "{"), (0, "a", "f", "}"), (1, "b", "g", "{"), (1, "b", "g", "}")],
        [("a", "f", "{}"), ("b", "g", "{}")],
    ),
    ("the name with every piece", [(0, None, "f", "{"), (0, None, "f", "}")], [("call_0", "f", "{}")]),
    ("a new id with every piece", [(0, "a", "f", "{"), (0, "b", None, "}")], [("a", "f", "{}")]),
    ("an empty name with every piece", [(0, "a", "f", "{"), (0, "", "", "}")], [("a", "f", "{}")]),
    ("indexes that begin anywhere", [(7, "a", "f", "{}"), (3, "b", "g", "{}")], [("a", "f", "{}"), ("b", "g", "{}")]),
]


@pytest.mark.parametrize(("pieces", "expected"), [case[1:] for case in SERVERS], ids=[case[0] for case in SERVERS])
def test_a_new_id_or_name_begins_a_call(pieces: list[Piece], expected: list[tuple[str, str, str]]) -> None:
    calls = Calls()
    found: dict[int, list[str]] = {}
    for piece in (calls.take(*given) for given in pieces):
        call = found.setdefault(piece.index, [piece.id or "", piece.name or "", ""])
        call[2] += piece.arguments
    assert [tuple(found[index]) for index in sorted(found)] == expected
    assert sorted(found) == list(range(len(expected)))


@pytest.mark.parametrize("index", [0, None])
def test_a_call_has_a_name(index: int | None) -> None:
    with pytest.raises(WorkerFailed, match="without a name"):
        Calls().take(index, "a", None, "{}")


def test_an_answer_has_no_more_calls_than_can_be_passed_on() -> None:
    calls = Calls()
    with pytest.raises(WorkerFailed, match="cannot be passed on"):
        for number in range(1000):
            calls.take(None, f"c{number}", "f", "{}")
