"""Packs and unpacks values, subkeys and dictionaries as hivemind's DHT has them, with every check.

What is unpacked here comes from strangers: whatever the bytes, the worst that comes out is nothing. Sizes and depths
are bounded before anything is decoded: what is nested is skipped over and never built.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p2pnet.network.interface import StoredValue

DICTIONARY_EXT_CODE = 0x50
"""hivemind's msgpack extension type of a dictionary: [max size, latest expiry, [[subkey, value, expiry], ...]]."""

MAX_VALUES_PER_KEY = 900
"""Values of the largest size, 4 KiB, that fit into one reply of the DHT, 4 MiB, with their subkeys and expiries."""

MAX_ENTRIES = 2 * MAX_VALUES_PER_KEY
"""Of a dictionary that is read: no honest peer keeps more than MAX_VALUES_PER_KEY."""

MAX_EXPIRY_S = 1 << 43
"""Milliseconds after this do not fit a float64 exactly."""

Packed = tuple[str, bytes, float]
"""One entry of a dictionary: subkey, value as msgpack bytes, and expiry in seconds since 1970."""

_decode_ext = msgspec.msgpack.Decoder(msgspec.msgpack.Ext).decode
_decode_dictionary = msgspec.msgpack.Decoder(tuple[msgspec.Raw, msgspec.Raw, msgspec.Raw]).decode
_decode_items = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_decode_item = msgspec.msgpack.Decoder(tuple[str, bytes, float]).decode
_decode_text = msgspec.msgpack.Decoder(str).decode
_decode_bytes = msgspec.msgpack.Decoder(bytes).decode

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def pack_subkey(subkey: str) -> bytes:
    return msgspec.msgpack.encode(subkey)


def pack_value(value: bytes) -> bytes:
    return msgspec.msgpack.encode(value)


def pack_dictionary(entries: Iterable[Packed], latest_expiry_s: float) -> bytes:
    """As hivemind's nodes read it."""
    return msgspec.msgpack.encode(
        msgspec.msgpack.Ext(DICTIONARY_EXT_CODE, msgspec.msgpack.encode([None, latest_expiry_s, list(entries)]))
    )


def unpack_subkey(packed: bytes) -> str | None:
    """The text of a subkey. None for anything else: nil, for instance, is how hivemind marks a plain value."""
    try:
        return _decode_text(packed)
    except _MALFORMED:
        return None


def unpack_value(key_id: bytes, subkey: str, packed: bytes, expires_s: float) -> StoredValue | None:
    """Values travel as msgpack bytes. None when the expiry is no whole millisecond: none like it was ever signed."""
    if not 0 < expires_s < MAX_EXPIRY_S:
        return None
    expires_ms = round(expires_s * 1000)
    if expires_ms / 1000 != expires_s:
        return None
    try:
        return StoredValue(key_id, subkey, _decode_bytes(packed), expires_ms)
    except _MALFORMED:
        return None


def values_in(key_id: bytes, dictionary: bytes) -> list[StoredValue]:
    """The well-formed entries of a dictionary, each on its own: a bad one hides no other. None of one that is longer
    than MAX_ENTRIES."""
    values = (_entry(key_id, item) for item in _items(dictionary))
    return [value for value in values if value is not None]


def _items(dictionary: bytes) -> list[msgspec.Raw]:
    try:
        ext = _decode_ext(dictionary)
        if ext.code != DICTIONARY_EXT_CODE:
            return []
        items = bytes(_decode_dictionary(ext.data)[2])
        return _decode_items(items) if _length_of_list(items) <= MAX_ENTRIES else []
    except _MALFORMED:
        return []


def _length_of_list(packed: bytes) -> int:
    """How many items a msgpack array says that it has; 0 for anything else.
    https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family"""
    kind = packed[0]
    if kind == 0xDC:
        return int.from_bytes(packed[1:3], "big")
    if kind == 0xDD:
        return int.from_bytes(packed[1:5], "big")
    return kind & 0x0F if kind & 0xF0 == 0x90 else 0


def _entry(key_id: bytes, item: msgspec.Raw) -> StoredValue | None:
    try:
        return unpack_value(key_id, *_decode_item(item))
    except _MALFORMED:
        return None
