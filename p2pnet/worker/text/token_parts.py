"""Cuts tokens, and their text, into pieces that fit a frame. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2pnet.tokenize_messages import MAX_IDS_AT_ONCE, MAX_TEXT_CHARS_AT_ONCE, MAX_TOKEN_NAME_CHARS, Tokenized

MAX_NAME_BYTES_AT_ONCE = 1 << 15
"""In one event, which has room for twice as much."""


def named(name: str | None) -> str:
    """A token's name as it may be sent."""
    return (name or "")[:MAX_TOKEN_NAME_CHARS]


def text_parts(text: str) -> Iterator[Tokenized]:
    """A text in pieces that may be sent."""
    for start in range(0, len(text), MAX_TEXT_CHARS_AT_ONCE):
        yield Tokenized(text=text[start : start + MAX_TEXT_CHARS_AT_ONCE])


def id_parts(ids: Sequence[int], names: Sequence[str] | None) -> Iterator[Tokenized]:
    """Ids, with their names if there are any, in pieces that may be sent."""
    start = size = 0
    for index in range(len(ids)):
        added = 0 if names is None else len(names[index].encode(errors="replace"))
        if index - start == MAX_IDS_AT_ONCE or size + added > MAX_NAME_BYTES_AT_ONCE:
            yield _part(ids, names, start, index)
            start, size = index, 0
        size += added
    if start < len(ids):
        yield _part(ids, names, start, len(ids))


def _part(ids: Sequence[int], names: Sequence[str] | None, start: int, end: int) -> Tokenized:
    return Tokenized(tuple(ids[start:end]), () if names is None else tuple(names[start:end]))
