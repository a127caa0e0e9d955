"""Breaks text into lines between words while it comes, piece by piece. Knows nothing of terminals."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len


class Wrapping:
    """`width` gives how many cells a line has at that moment. A word is told once its end is known; one that is wider
    than a line is left whole, and so are all spaces but those at which a line is broken."""

    def __init__(self, width: Callable[[], int]) -> None:
        self._width = width
        self._column = 0
        self._spaces = ""
        self._word = ""

    def feed(self, text: str) -> str:
        """What can be shown now that this has come, too."""
        shown = []
        for char in text:
            if char in " \t\n":
                shown.append(self.rest())
                self._spaces = "" if char == "\n" else self._spaces + char
            else:
                self._word += char
            if char == "\n":
                shown.append(char)
                self._column = 0
        return "".join(shown)

    def rest(self) -> str:
        """The last word: nothing more comes, or it is over."""
        if not self._word:
            return ""
        spaces, word = self._spaces, self._word
        self._spaces = self._word = ""
        is_broken = self._column > 0 and self._column + cell_len(spaces + word) > self._width()
        self._column = cell_len(word) if is_broken else self._column + cell_len(spaces + word)
        return f"\n{word}" if is_broken else spaces + word


def between_words(text: str, width: int, indent: int = 0) -> str:
    """The text in lines of at most `width` cells, but for wider words; all lines but the first after `indent` spaces,
    which leave as much less room on the first one, too."""
    wrapping = Wrapping(lambda: width - indent)
    return (wrapping.feed(text) + wrapping.rest()).replace("\n", "\n" + " " * indent)
