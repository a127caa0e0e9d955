"""Strangers' text on a terminal: nothing acts, a line is a line, and its length has an end."""

from __future__ import annotations

import pytest

from p2pnet.display.printable import MAX_MESSAGE_CHARS, printable, printable_line, quoted, short_id

LINES = [
    ("plain", "as it is", 8, "as it is"),
    ("several lines", " one\n\ttwo  three\r\n", 20, "one two three"),
    ("escape codes", "a\x1b[31mred\x07", 20, "a [31mred"),
    ("too long", "0123456789", 9, "012345..."),
    ("only what cannot be seen", "\x00\u202e\n", 9, ""),
    ("endless", "ab " * 100_000, 10, "ab ab a..."),
]


@pytest.mark.parametrize(("text", "max_chars", "line"), [case[1:] for case in LINES], ids=[case[0] for case in LINES])
def test_one_line(text: str, max_chars: int, line: str) -> None:
    assert printable_line(text, max_chars) == line


def test_a_message_is_a_sentence_or_two() -> None:
    assert len(printable_line("x" * 5000)) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("text", "line"),
    [("too long", '"too long"'), ('a" b\n\u201cc\u201d \u00abd', "\"a' b 'c' 'd\""), ("\x00 \n", ""), ("", "")],
)
def test_a_quotation_ends_where_it_ends(text: str, line: str) -> None:
    assert quoted(text) == line


def test_each_character_keeps_its_column() -> None:
    assert printable("a\tb\nc\x1b") == "a b c "


def test_an_id_is_shortened_and_printable() -> None:
    assert (short_id("12D3KooWabc\x1bdefg"), short_id("")) == ("..abc defg", "-")
