"""Deltas: whole tokens with their whole text, and nothing that a stop string could take back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.messages import TextDelta
from p2pnet.worker.text.detokenizer import Piece
from p2pnet.worker.text.emission import Emitter


class Words:
    """A decoder whose ids are indexes of words; None is a word that waits for the next one."""

    def __init__(self, words: list[str | None]) -> None:
        self._words = words
        self._pending: list[int] = []

    def feed(self, token_id: int) -> Piece | None:
        self._pending.append(token_id)
        word = self._words[token_id]
        return None if word is None else self._emit(word)

    def flush(self) -> Piece | None:
        return self._emit("?") if self._pending else None

    def _emit(self, text: str) -> Piece:
        ids, self._pending = tuple(self._pending), []
        return Piece(ids, text)


CASES = [
    ("one delta per token", ["a", "b"], (), [("a", 0), ("b", 1)], False),
    ("a character of three tokens", [None, None, "你"], (), [("你", 0, 1, 2)], False),
    ("an unfinished character comes at the end", ["a", None], (), [("a", 0), ("?", 1)], False),
    ("a token without text", ["", "a"], (), [("", 0), ("a", 1)], False),
    ("a begun stop string holds the whole token", ["a S", "o"], ("STOP",), [("a So", 0, 1)], False),
    ("only what it must", ["a", "b", "S", "T", "x"], ("STOP",), [("a", 0), ("b", 1), ("STx", 2, 3, 4)], False),
    ("a long begin lets go bit by bit", ["S", "S", "S"], ("ST",), [("S", 0), ("S", 1), ("S", 2)], False),
    ("stopped at a token's start", ["a", "STOP", "b"], ("STOP",), [("a", 0)], True),
    ("stopped within a token: its text comes without ids", ["a", "b STOP"], ("STOP",), [("a", 0), ("b ",)], True),
    ("stopped over several tokens", ["a S", "TO", "P"], ("STOP",), [("a ",)], True),
    ("stopped at once", ["STOP"], ("STOP",), [], True),
]


def run(words: list[str | None], stops: tuple[str, ...]) -> tuple[list[TextDelta], bool]:
    emitter = Emitter(Words(words), stops)
    deltas = []
    for token_id in range(len(words)):
        if delta := emitter.feed(token_id):
            deltas.append(delta)
        if emitter.is_stopped:
            break
    return [*deltas, *emitter.flush()], emitter.is_stopped


@pytest.mark.parametrize(
    ("words", "stops", "expected", "is_stopped"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_cases(
    words: list[str | None], stops: tuple[str, ...], expected: list[tuple[str, *tuple[int, ...]]], is_stopped: bool
) -> None:
    assert run(words, stops) == ([TextDelta(text, tuple(ids)) for text, *ids in expected], is_stopped)


@given(
    st.lists(st.text("ab", max_size=3), max_size=10),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_every_delta_is_a_clean_place_to_go_on_from(words: list[str], stops: tuple[str, ...]) -> None:
    """Whoever has the first deltas, and generates the words after their ids afresh, gets the same text."""
    whole, is_stopped = run(list(words), stops)
    text = "".join(delta.text for delta in whole)
    for count in range(len(whole) + 1):
        head = [delta for delta in whole[:count] if delta.token_ids]
        rest, is_rest_stopped = run(list(words[sum(len(delta.token_ids) for delta in head) :]), stops)
        assert "".join(delta.text for delta in (*head, *rest)) == text
        assert is_rest_stopped == is_stopped


@given(
    st.lists(st.text("ab", max_size=3), max_size=10),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_the_ids_of_a_delta_are_its_text(words: list[str], stops: tuple[str, ...]) -> None:
    for delta in run(list(words), stops)[0]:
        if delta.token_ids:
            assert delta.text == "".join(words[token_id] for token_id in delta.token_ids)
