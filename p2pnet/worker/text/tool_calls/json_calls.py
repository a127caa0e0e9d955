"""Reads calls that are JSON objects with a name and arguments. Is lenient: arguments are the model's own text.

Knows nothing of what stands around such an object.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import msgspec

from p2pnet.worker.text.tool_calls.reader import MAX_NAME_CHARS, AnswerEnded, CallReader, Reading, is_name, keep

_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_MAX_STRING_CHARS = 6 * MAX_NAME_CHARS
"""A name, should all of it be escaped. A longer key is nobody's, and nothing is said while one is read."""
_KEYS = _ARGUMENT_KEYS | {"name", "type", "id"}


def call_object(reader: CallReader, is_marked: bool, closer: str = "") -> Reading[bool]:
    """Read a call from its brace on. False when it is none, and then all of it is pending.

    Without a mark before it an object may be the answer itself: then it has to begin like a call, of a tool on offer.
    `closer`, outside a string, ends a call whose braces do not. What comes after a call that breaks off is text.
    """
    yield from reader.take()
    early = ""
    """Arguments that came before the name."""
    while (key := (yield from _key(reader))) is not None and (is_marked or reader.is_open or key in _KEYS):
        if key == "name" and not reader.is_open:
            name = yield from string(reader)
            if name is None or not is_name(name) or not (is_marked or name in reader.tools):
                return False
            reader.open(name)
            if early:
                reader.argue(early)
        elif key in _ARGUMENT_KEYS and reader.is_open and not reader.has_arguments:
            if (yield from arguments(reader, closer)):
                reader.close()
                reader.drop()
                return True
        elif reader.is_open:
            yield from _value(reader, reader.drop)
        else:
            start = reader.pending_count
            yield from _value(reader, keep)
            early = early or (reader.pending(start) if key in _ARGUMENT_KEYS else "")
        yield from reader.space()
        if not (yield from reader.literal(",")):
            break
    return (yield from _end_of_object(reader))


def arguments(reader: CallReader, closer: str = "") -> Reading[bool]:
    """Read a value that is the open call's arguments. Returns whether the closer ended it, which is then pending."""
    reader.drop()
    try:
        return (yield from _value(reader, reader.argue_pending, closer))
    except AnswerEnded:
        reader.argue_pending()
        raise


def string(reader: CallReader) -> Reading[str | None]:
    """Read a key or a name. None when it is none; what was taken is pending."""
    start = reader.pending_count
    if (yield from reader.peek()) != '"' or not (yield from _string(reader, keep, _MAX_STRING_CHARS)):
        return None
    try:
        return msgspec.json.decode(reader.pending(start), type=str)
    except ValueError:  # a bad escape, or half of a surrogate pair
        return None


def _key(reader: CallReader) -> Reading[str | None]:
    """Read a key and its colon, with the space around them."""
    yield from reader.space()
    key = yield from string(reader)
    yield from reader.space()
    if not (yield from reader.literal(":")):
        return None
    yield from reader.space()
    return key


def _end_of_object(reader: CallReader) -> Reading[bool]:
    is_complete = (yield from reader.peek()) == "}"
    if is_complete:
        yield from reader.take()
    if not reader.is_open:
        return False
    reader.close()
    if is_complete:
        reader.drop()
    reader.say_rest()
    return True


def _value(reader: CallReader, settle: Callable[[], None], closer: str = "") -> Reading[bool]:
    """Read any JSON value, by its brackets and quotes alone. Returns whether `closer` ended it."""
    depth = 0
    while True:
        char = yield from reader.peek()
        if char == '"':
            yield from _string(reader, settle)
        elif char == closer[:1]:
            if (yield from reader.literal(closer)):
                return True
            settle()
            continue
        elif depth == 0 and (char in "}]," or char.isspace()):
            return False
        else:
            yield from reader.take()
            settle()
            depth += (char in "{[") - (char in "}]")
            if char not in "}]":
                continue
        if depth == 0:
            return False


def _string(reader: CallReader, settle: Callable[[], None], max_chars: float = inf) -> Reading[bool]:
    """Read from one quote to the other. False when it is longer than this."""
    yield from reader.take()
    settle()
    is_escaped, size = False, 0
    while size < max_chars:
        char = yield from reader.take()
        settle()
        if char == '"' and not is_escaped:
            return True
        is_escaped = char == "\\" and not is_escaped
        size += 1
    return False
