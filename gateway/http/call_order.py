"""Puts the pieces of tool calls in order for streams that say one thing after the other. Pure.

A server may send the pieces of two calls in turns, and text between two pieces of one. Most dialects have one call open
at a time, and text closes it. So what comes while a call is not whole is held back until it is; at the end of the
answer whatever is held back follows. Whole answers need none of this: there each piece goes to its call.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.http.thoughts import Event
from p2pnet.errors import ProtocolViolation
from p2pnet.messages import Finished, TextDelta


class CallOrder:
    """Takes the events of one answer. Of each choice the calls come out one after the other."""

    def __init__(self) -> None:
        self._choices: dict[int, _Choice] = {}

    def take(self, event: Event) -> list[Event]:
        """What follows from it now. Raises ProtocolViolation where the worker goes back to a call that is over."""
        if isinstance(event, TextDelta):
            choice = self._choices.get(event.choice)
            if choice is None and not event.tool_calls:
                return [event]
            if choice is None:
                choice = self._choices[event.choice] = _Choice()
            return [*choice.take(event)]
        if isinstance(event, Finished):
            return [*(held for choice in self._choices.values() for held in choice.rest()), event]
        return [event]


class _Choice:
    """Of the deltas that are taken and given here, each has either text or a single piece of a call."""

    def __init__(self) -> None:
        self._open: int | None = None
        self._arguments: list[str] = []
        """Of the open call."""
        self._over: set[int] = set()
        self._held: list[TextDelta] = []

    def take(self, delta: TextDelta) -> list[TextDelta]:
        parts = list(_parts(delta))
        given = [each for part in parts for each in self._take(part)]
        return [delta] if given == parts else given

    def rest(self) -> Iterator[TextDelta]:
        """All that is held back."""
        while self._held:
            yield from self._release()

    def _take(self, part: TextDelta) -> Iterator[TextDelta]:
        index = _index(part)
        if index is not None and index in self._over:
            if part.tool_calls[0].arguments.strip():
                raise ProtocolViolation("the worker went back to a tool call that was over")
        elif index == self._open:
            yield self._said(part)
            while self._held and self._is_whole():
                yield from self._release()
        elif self._is_whole():
            yield self._begun(part)
        else:
            self._held.append(part)

    def _release(self) -> Iterator[TextDelta]:
        """What has been held back for longest, and what belongs to it."""
        first, *others = self._held
        index = _index(first)
        following = [part for part in others if index is not None and _index(part) == index]
        self._held = [part for part in others if index is None or _index(part) != index]
        yield self._begun(first)
        yield from map(self._said, following)

    def _begun(self, part: TextDelta) -> TextDelta:
        """Text, or another call, ends the open one."""
        if self._open is not None:
            self._over.add(self._open)
        self._open, self._arguments = _index(part), []
        return self._said(part)

    def _said(self, part: TextDelta) -> TextDelta:
        self._arguments += (piece.arguments for piece in part.tool_calls)
        return part

    def _is_whole(self) -> bool:
        """Whether the open call, if there is one, has all of its arguments."""
        if self._open is None:
            return True
        arguments = "".join(self._arguments)
        if not arguments.rstrip().endswith("}"):
            return False
        try:
            msgspec.json.decode(arguments)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return False
        return True


def _index(part: TextDelta) -> int | None:
    """Which call it is a piece of; None is text."""
    return part.tool_calls[0].index if part.tool_calls else None


def _parts(delta: TextDelta) -> Iterator[TextDelta]:
    """The text, then each piece. Ids and log-probabilities go with the first of them."""
    if delta.text or not delta.tool_calls:
        yield msgspec.structs.replace(delta, tool_calls=())
        rest = TextDelta(choice=delta.choice)
    else:
        rest = msgspec.structs.replace(delta, tool_calls=())
    for piece in delta.tool_calls:
        yield msgspec.structs.replace(rest, tool_calls=(piece,))
        rest = TextDelta(choice=delta.choice)
