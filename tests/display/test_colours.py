"""Colours of text are read on light and on dark terminals."""

from __future__ import annotations

import pytest
from rich.color import Color
from rich.color_triplet import ColorTriplet

from p2pnet.display.colours import BAD, GOOD, WARNING

LEAST_CONTRAST = 3.8
"""More than WCAG asks of large text, 3; no colour has 4.6 on both."""


def luminance(colour: ColorTriplet) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", [GOOD, WARNING, BAD])
def test_it_is_read_on_white_and_on_black(name: str) -> None:
    own = luminance(Color.parse(name).get_truecolor())
    assert 1.05 / (own + 0.05) >= LEAST_CONTRAST
    assert (own + 0.05) / 0.05 >= LEAST_CONTRAST
