"""Reads an answer character by character, and keeps what may still become a tool call.

The formats' grammars are generators over a CallReader: each is handed one character at a time, so that the result
cannot depend on how the text was cut into pieces, and no character is looked at again. Knows no format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from itertools import groupby
from typing import TypeVar

from p2pnet.messages import ToolCallDelta
from p2pnet.wire.packing import joined_calls
from p2pnet.worker.text.tool_calls.schemas import Properties

MAX_NAME_CHARS = 128
"""What the wire carries: see messages.ToolName."""

_NOT_IN_A_WORD = frozenset("\"'{}[]()<>|,:")

TextOrCall = str | ToolCallDelta
"""Plain text, or a piece of a call."""

T = TypeVar("T")
Reading = Generator[None, str, T]


class AnswerEnded(Exception):
    """Thrown into a grammar where the answer stops, so that it can say the rest."""


class CallReader:
    """Knows what has been read and said of one answer."""

    def __init__(self, tools: Mapping[str, Properties], call_id: Callable[[int], str]) -> None:
        """`tools` are those on offer, `call_id` gives the id of the call with an index."""
        self.tools = tools
        self._call_id = call_id
        self._next: str | None = None
        self._pending: list[str] = []
        self._said: list[TextOrCall] = []
        self._drops_space = False
        """Space between and after calls belongs to their markup, until other text comes."""
        self.calls = 0
        self.closed_calls = 0
        self.is_open = False
        self.has_arguments = False

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    @property
    def held(self) -> int:
        """How many of the characters read may still be said."""
        return len(self._pending) + (self._next is not None)

    def collect(self) -> list[TextOrCall]:
        """What was said since the last time, in as few pieces as possible."""
        said, self._said = self._said, []
        return _joined(said)

    def peek(self) -> Reading[str]:
        """The next character, which is not taken yet."""
        if self._next is None:
            self._next = yield
        return self._next

    def take(self) -> Reading[str]:
        """Take the next character, which is then pending."""
        char = yield from self.peek()
        self._next = None
        self._pending.append(char)
        return char

    def space(self) -> Reading[None]:
        while (yield from self.peek()).isspace():
            yield from self.take()

    def literal(self, text: str) -> Reading[bool]:
        """Take this text, as far as it comes. Returns whether all of it did."""
        for expected in text:
            if (yield from self.peek()) != expected:
                return False
            yield from self.take()
        return True

    def word(self, ends: str) -> Reading[str | None]:
        """Take a bare name that stops before one of `ends`. None when it is no name; what was taken is pending."""
        word: list[str] = []
        while len(word) <= MAX_NAME_CHARS:
            char = yield from self.peek()
            if char in ends:
                return "".join(word) or None
            if not is_word(char):
                return None
            word.append((yield from self.take()))
        return None

    def until(self, markers: Collection[str], settle: Callable[[str, int], None]) -> Reading[str]:
        """Read on to the end of a marker, and return it; it is then pending. No marker begins another.

        `settle(freed, kept)` is told of each text that cannot belong to a marker, and how many characters after it may.
        """
        beginnings = frozenset(marker[0] for marker in markers)
        candidate = ""
        while True:
            char = yield from self.take()
            if not candidate and char not in beginnings:
                settle(char, 0)
                continue
            candidate += char
            kept = candidate
            while kept and not any(marker.startswith(kept) for marker in markers):
                kept = kept[1:]
            if len(kept) < len(candidate):
                settle(candidate[: len(candidate) - len(kept)], len(kept))
            if kept in markers:
                return kept
            candidate = kept

    def text_until(self, markers: Collection[str]) -> Reading[str]:
        """Say the text before a marker, and return the marker, which is pending."""
        return (yield from self.until(markers, self._say_freed))

    def pending(self, start: int = 0) -> str:
        return "".join(self._pending[start:])

    def say(self, kept: int = 0) -> None:
        """Say what is pending as plain text, except the last `kept` characters."""
        text = self._release(kept)
        if text:
            self._said.append(text)
            self._drops_space = False

    def say_rest(self) -> None:
        """Say what is pending as plain text, unless it is space that may turn out to stand between calls."""
        if not (self._drops_space and self.pending().isspace()):
            self.say()

    def drop(self) -> None:
        """Drop what is pending: it is markup around a call."""
        self._release(0)

    def open(self, name: str) -> None:
        """Begin a call. What is pending is markup around it."""
        self.drop()
        self._said.append(ToolCallDelta(self.calls, self._call_id(self.calls), name))
        self.calls += 1
        self.is_open, self.has_arguments, self._drops_space = True, False, True

    def argue(self, text: str) -> None:
        """Say some text of the open call's arguments."""
        self._said.append(ToolCallDelta(self.calls - 1, arguments=text))
        self.has_arguments = self._drops_space = True

    def argue_pending(self, kept: int = 0, spell: Callable[[str], str] = str) -> None:
        """Say what is pending, except the last `kept` characters, as arguments that `spell` makes of it."""
        text = spell(self._release(kept))
        if text:
            self.argue(text)

    def close(self) -> None:
        """End the open call. One without arguments has an empty object: clients read them as JSON."""
        if not self.has_arguments:
            self.argue("{}")
        self.is_open = False
        self.closed_calls += 1

    def end(self) -> None:
        """End the answer. What is pending was text, except space after a call and unfinished markup."""
        if not self.is_open:
            self.say_rest()
        self.drop()

    def _release(self, kept: int) -> str:
        size = len(self._pending) - kept
        text = "".join(self._pending[:size])
        del self._pending[:size]
        return text

    def _say_freed(self, freed: str, kept: int) -> None:
        if not (self._drops_space and freed.isspace()):
            self.say(kept)


def is_name(word: str | None) -> bool:
    """Whether a tool may have this name: whether the wire can carry it and a terminal can show it."""
    return bool(word) and len(word or "") <= MAX_NAME_CHARS and (word or "").isprintable()


def is_word(text: str) -> bool:
    """Whether the text can be a name without quotes."""
    return is_name(text) and not any(char.isspace() or char in _NOT_IN_A_WORD for char in text)


def keep(*_: object) -> None:
    """Settles nothing, so that all stays pending."""


def _joined(said: list[TextOrCall]) -> list[TextOrCall]:
    """Joins neighbouring texts, and neighbouring pieces of one call."""
    joined: list[TextOrCall] = []
    for is_text, group in groupby(said, lambda part: isinstance(part, str)):
        parts = list(group)
        if is_text:
            joined.append("".join(part for part in parts if isinstance(part, str)))
        else:
            joined.extend(joined_calls([part for part in parts if isinstance(part, ToolCallDelta)]))
    return joined
