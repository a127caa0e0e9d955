"""Lines are broken between words, however the text comes."""

from __future__ import annotations

import pytest

from p2pnet.display.wrapping import Wrapping, between_words

CASES = [
    ("one two three", 7, "one two\nthree"),
    ("one two three", 13, "one two three"),
    ("one two", 3, "one\ntwo"),
    ("a-word-that-is-long and", 5, "a-word-that-is-long\nand"),
    ("one\ntwo three", 9, "one\ntwo three"),
    ("    x = 1\n", 20, "    x = 1\n"),
    ("one   two", 20, "one   two"),
    ("one   two", 6, "one\ntwo"),
    ("one \n\n two", 20, "one\n\n two"),
    ("\u4e00\u4e8c \u4e09", 5, "\u4e00\u4e8c\n\u4e09"),
    ("", 5, ""),
]


@pytest.mark.parametrize(("text", "width", "shown"), CASES)
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_lines(text: str, width: int, shown: str, piece: int) -> None:
    wrapping = Wrapping(lambda: width)
    pieces = [text[at : at + piece] for at in range(0, len(text), piece)]
    assert "".join(map(wrapping.feed, pieces)) + wrapping.rest() == shown


def test_lines_after_the_first_are_indented() -> None:
    assert between_words("one two three\nfour", 9, indent=2) == "one two\n  three\n  four"


def test_a_terminal_that_is_resized_has_lines_of_its_new_width() -> None:
    widths = [20]
    wrapping = Wrapping(lambda: widths[0])
    first = wrapping.feed("one two three four\n")
    widths[0] = 9
    assert first + wrapping.feed("one two three four\n") == "one two three four\none two\nthree\nfour\n"
