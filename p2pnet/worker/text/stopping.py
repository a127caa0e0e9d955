"""Finds stop strings in a text that arrives in pieces, and says what may be shown. Knows nothing of tokens.

A text ends as soon as one of its stop strings is complete, and is cut before it; of several that complete at the same
character, the longest counts. So the result depends on the text alone, not on how it was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StopVerdict:
    """The verdict after one piece: the text that can no longer become part of a stop string, and the stop string that
    has ended it."""

    safe: str
    stop: str | None = None

    @property
    def is_stopped(self) -> bool:
        return self.stop is not None


class StopStrings:
    """Watches one text. Feed it piece by piece until a verdict is stopped, or flush at the end."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""

    @property
    def are_any(self) -> bool:
        return bool(self._stops)

    def feed(self, piece: str) -> StopVerdict:
        """Take the next piece of text, of any length."""
        text = self._held + piece
        cut = _cut(text, self._stops)
        if cut is not None:
            self._held = ""
            start, stop = cut
            return StopVerdict(text[:start], stop)
        safe = len(text) - _held_length(text, self._stops)
        self._held = text[safe:]
        return StopVerdict(text[:safe])

    def flush(self) -> str:
        """The text that was held back, when the text is over: it turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _cut(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the text ends, and why: the start of the stop string that completes first."""
    found = ((text.find(stop), stop) for stop in stops)
    spans = [(start + len(stop), start, stop) for start, stop in found if start >= 0]
    return min(spans)[1:] if spans else None


def _held_length(text: str, stops: Sequence[str]) -> int:
    """The length of the longest end of the text that begins a stop string."""
    return max((_overlap(text, stop) for stop in stops), default=0)


def _overlap(text: str, stop: str) -> int:
    """How many characters of `stop` the text ends with. Only beginnings of `stop` that end in the text's last character
    are compared: a stop string may be long."""
    size = min(len(text), len(stop) - 1)
    while size > 0:
        size = stop.rfind(text[-1], 0, size) + 1
        if size and text.endswith(stop[:size]):
            return size
        size -= 1
    return 0
