"""Writes JSON that every client reads as one line. Pure.

Some clients split a stream at all that Unicode calls a line break, which JSON allows inside of texts (httpx's
`iter_lines` does, and with it many a client of streams).
"""

from __future__ import annotations

from typing import Any

import msgspec

_LINE_BREAKS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in ("\x85", "\u2028", "\u2029"))


def encode_line(value: Any) -> bytes:
    """Encodes a value as JSON on one line."""
    return one_line(msgspec.json.encode(value))


def one_line(encoded: bytes) -> bytes:
    """The same JSON with all line breaks escaped. Their bytes are in no other character of UTF-8."""
    for character, escape in _LINE_BREAKS:
        if character in encoded:
            encoded = encoded.replace(character, escape)
    return encoded
