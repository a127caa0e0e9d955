"""Stop strings: the text before them, and the same verdict however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.worker.text.stopping import StopStrings, StopVerdict

CASES = [
    ("no stop strings", "anything", (), "anything", None),
    ("not in the text", "anything", ("xyz",), "anything", None),
    ("in the middle", "one STOP two", ("STOP",), "one ", "STOP"),
    ("at the start", "STOP", ("STOP",), "", "STOP"),
    ("the first of two places", "a.b.c", (".",), "a", "."),
    ("the one that completes first", "ab cd", ("cd", "b"), "a", "b"),
    ("a short one within a long one ends it sooner", "xabcd", ("abcd", "bc"), "xa", "bc"),
    ("two that complete together: the longest", "xabc", ("bc", "abc"), "x", "abc"),
    ("only begun at the end", "one STO", ("STOP",), "one STO", None),
    ("begun twice", "SSTOP", ("STOP",), "S", "STOP"),
    ("begun again within itself", "ababac", ("abac",), "ab", "abac"),
    ("several characters beyond ASCII", "très\n\nbien", ("\n\n",), "très", "\n\n"),
    ("empty ones are none", "text", ("",), "text", None),
    ("no text", "", ("x",), "", None),
]


def run(pieces: Iterable[str], stops: tuple[str, ...]) -> tuple[str, str | None]:
    watcher = StopStrings(stops)
    text = ""
    for piece in pieces:
        verdict = watcher.feed(piece)
        text += verdict.safe
        if verdict.is_stopped:
            return text, verdict.stop
    return text + watcher.flush(), None


@pytest.mark.parametrize("cut", [len, lambda text: 1], ids=["whole", "char by char"])
@pytest.mark.parametrize(
    ("text", "stops", "expected", "stop"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_cases(cut: object, text: str, stops: tuple[str, ...], expected: str, stop: str | None) -> None:
    size = max(1, cut(text))  # type: ignore[operator]
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert run(pieces, stops) == (expected, stop)


@given(
    st.lists(st.text("ab", max_size=4), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple),
)
def test_pieces_do_not_matter(pieces: list[str], stops: tuple[str, ...]) -> None:
    assert run(pieces, stops) == run("".join(pieces), stops)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3).map(tuple))
def test_what_was_shown_never_begins_a_stop_string(text: str, stops: tuple[str, ...]) -> None:
    watcher = StopStrings(stops)
    shown = ""
    for character in text:
        verdict = watcher.feed(character)
        shown += verdict.safe
        assert not any(stop in shown for stop in stops)
        if verdict.is_stopped:
            break


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    watcher = StopStrings(("STOP",))
    assert watcher.feed("one ST") == StopVerdict("one ")
    assert watcher.feed("ART") == StopVerdict("START")
    assert watcher.feed(" STO") == StopVerdict(" ")
    assert watcher.flush() == "STO"
    assert watcher.flush() == ""
