"""Writes server-sent events as bytes. Pure; what is in them is encoded already.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream; charset=utf-8"

DONE = b"data: [DONE]\n\n"
"""The last one of a stream of OpenAI's."""


def event(name: str, data: bytes) -> bytes:
    """An event with a name. `data` is one line."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def nameless(data: bytes) -> bytes:
    """An event without a name. `data` is one line."""
    return b"data: " + data + b"\n\n"


def with_receipts(end: bytes, document: bytes) -> bytes:
    """The end of a stream, and a comment with the receipts: of a field or an event that is not in its dialect a strict
    client might make something."""
    return end + b": p2pnet-receipt " + document + b"\n\n"


def comment(text: str) -> bytes:
    """A comment, which clients pass over."""
    return b": " + text.encode() + b"\n\n"
