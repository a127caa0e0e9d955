"""Strangers' text on a terminal: nothing acts, a line is a line, and its length has an end."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from p2pnet.display.printable import MAX_MESSAGE_CHARS, printable, printable_line, quoted, short_id, visible

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


SHOWN = [
    ("as it is", "Grüße, 世界!\n\tx\u00a0y\u3000z", "Grüße, 世界!\n\tx\u00a0y\u3000z"),
    ("a title for the window", "\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
    ("a C1 control", "\x9b31m", r"\x9b31m"),
    ("a line that is written over", "safe\rrm -rf", r"safe\rrm -rf"),
    ("another order", "\u202eexe.txt\u202c", r"\u202eexe.txt\u202c"),
    ("isolates", "\u2066a\u2067b\u2068c\u2069", r"\u2066a\u2067b\u2068c\u2069"),
    ("marks of direction", "\u200ea\u200fb\u061c", r"\u200ea\u200fb\u061c"),
    ("no width", "pay\u200bpal\ufeff\u2060", r"pay\u200bpal\ufeff\u2060"),
    ("other line ends", "a\u2028b\u2029c\x0bd\x85e", r"a\u2028b\u2029c\x0bd\x85e"),
    ("text in tags", "ok\U000e0068\U000e0069", r"ok\U000e0068\U000e0069"),
    ("half a character", "\ud800", r"\ud800"),
    ("nothing to see", "a\u3164b\u115f", r"a\u3164b\u115f"),
    ("a family", "\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f467"),
    ("Persian", "می\u200cخواهم", "می\u200cخواهم"),
    ("joiners that join nothing", "a\u200db\u200d", r"a\u200db\u200d"),
    ("many joiners", "世\u200d\u200c\u200d", "世\u200d" + r"\u200c\u200d"),
]


@pytest.mark.parametrize(("text", "shown"), [case[1:] for case in SHOWN], ids=[case[0] for case in SHOWN])
def test_what_would_not_be_seen_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    pieces = [visible(char, after=before) for char, before in zip(text, ("", *text), strict=False)]
    assert "".join(pieces) == shown, "in pieces it is something else"


NUMBER_SIGNS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}
"""Formats by their category, but there is something to see."""


def test_no_character_acts_or_hides() -> None:
    """Of all that Unicode knows: each control, format and odd line end is escaped, and no letter that can be seen."""
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        category = unicodedata.category(char)
        is_plain = char in "\t\n" or code in NUMBER_SIGNS
        if category in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert (visible(char) == char) == is_plain, hex(code)
        elif category in ("Lu", "Ll", "Nd", "Po", "Sm", "So", "Zs"):
            assert visible(char) == char, hex(code)
