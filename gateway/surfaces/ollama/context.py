"""Packs a conversation into the list of numbers that Ollama calls its `context`, and unpacks it. Pure.

With Ollama they are token ids. The gateway has no tokenizer and keeps nothing between two requests, so here they are
the turns themselves: UTF-8 JSON behind a mark, two bytes a number. To the client it is the same: opaque numbers, to be
passed on unchanged.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

import msgspec

from p2pnet.errors import InvalidRequest

MARK = b"p2p1"
"""Token ids from a real Ollama begin otherwise, and must not be taken for turns."""

MAX_CONTEXT_BYTES = 1 << 17
"""Some 30,000 tokens of text, and 400 KB of JSON. What is longer is a conversation for /api/chat."""

_REFUSED = "context: not one that this gateway has given; use /api/chat to bring a conversation along"


class Turn(msgspec.Struct, frozen=True, array_like=True):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


_decode_turns = msgspec.json.Decoder(tuple[Turn, ...]).decode


def encode_context(turns: Sequence[Turn]) -> list[int] | None:
    """Numbers below 65536. None where the conversation is too long: then there is no context to go on with."""
    encoded = MARK + msgspec.json.encode(turns)
    if len(encoded) > MAX_CONTEXT_BYTES:
        return None
    encoded += b" " * (len(encoded) % 2)
    return list(struct.unpack(f">{len(encoded) // 2}H", encoded))


def decode_context(numbers: Sequence[int]) -> tuple[Turn, ...]:
    """The turns again. Raises InvalidRequest where these are not numbers of ours; no numbers are no turns."""
    if not numbers:
        return ()
    if 2 * len(numbers) > MAX_CONTEXT_BYTES:
        raise InvalidRequest(f"context: more than {MAX_CONTEXT_BYTES // 2} numbers", "context")
    try:
        encoded = struct.pack(f">{len(numbers)}H", *numbers)
    except struct.error as error:
        raise InvalidRequest(_REFUSED, "context") from error
    if not encoded.startswith(MARK):
        raise InvalidRequest(_REFUSED, "context")
    try:
        return _decode_turns(encoded[len(MARK) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(_REFUSED, "context") from error
