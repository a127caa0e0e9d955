"""Reads calls that are tags, one for each parameter, and makes JSON objects of them. Values are plain text:

    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>

Which values are texts, and which JSON, the tool's schema says. Knows nothing of what stands around a function.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from p2pnet.worker.text.tool_calls.reader import AnswerEnded, CallReader, Reading, keep

FUNCTION, FUNCTION_END = "<function=", "</function>"
PARAMETER, PARAMETER_END = "<parameter=", "</parameter>"

_NEXT = (PARAMETER, FUNCTION_END)
_VALUE_ENDS = tuple(newline + tag for tag in (PARAMETER_END, *_NEXT) for newline in ("", "\n"))
"""A value begins and ends with a line break that is not part of it; models forget its end tag at times."""

_PYTHON_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


def call(reader: CallReader, closer: str) -> Reading[bool]:
    """Read a call from the function's name to its end tag, or to `closer`. False when it is no call, and then all of it
    is pending."""
    name = yield from reader.word(">")
    if name is None:
        return False
    yield from reader.take()
    reader.open(name)
    tag = yield from reader.text_until((*_NEXT, closer))
    while tag == PARAMETER:
        tag = yield from _parameter(reader, reader.tools.get(name, {}))
        if tag == PARAMETER_END:
            reader.drop()
            tag = yield from reader.text_until((*_NEXT, closer))
    reader.drop()
    if reader.has_arguments:
        reader.argue("}")
    reader.close()
    return True


def _parameter(reader: CallReader, schemas: Mapping[str, Mapping[str, Any]]) -> Reading[str]:
    """Read one parameter, to the tag that ends it. What is no parameter is text."""
    key = yield from reader.word(">")
    if key is None:
        reader.say()
        return PARAMETER_END
    yield from reader.take()
    reader.drop()
    reader.argue((", " if reader.has_arguments else "{") + _quoted(key) + ": ")
    if (yield from reader.peek()) == "\n":
        yield from reader.take()
    reader.drop()
    return (yield from (_text(reader) if is_text(schemas.get(key)) else _json(reader)))


def _text(reader: CallReader) -> Reading[str]:
    """Says a value as a JSON string while it comes. Returns the tag that ended it."""
    reader.argue('"')
    try:
        tag = yield from reader.until(_VALUE_ENDS, lambda freed, kept: reader.argue_pending(kept, _escaped))
    except AnswerEnded:
        reader.argue_pending(0, _escaped)
        raise
    reader.argue('"')
    return tag.strip()


def _json(reader: CallReader) -> Reading[str]:
    """Says a value as JSON when it is complete. Returns the tag that ended it."""
    try:
        tag = yield from reader.until(_VALUE_ENDS, keep)
    except AnswerEnded:
        reader.argue_pending()
        raise
    reader.argue_pending(len(tag), as_json)
    return tag.strip()


def is_text(schema: Mapping[str, Any] | None) -> bool:
    """Whether nothing but a string is allowed. That is assumed where no schema is known."""
    if schema is None:
        return True
    if "type" in schema:
        return schema["type"] in ("string", ["string"])
    choices = schema.get("enum")
    return isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)


def as_json(value: str) -> str:
    """The value itself where it is JSON, or a constant of Python's; else a string."""
    text = _PYTHON_CONSTANTS.get(value.strip(), value.strip())
    try:
        msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return _quoted(value)
    return text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return _quoted(text)[1:-1]
