"""Unpacks values, subkeys and dictionaries as hivemind's DHT packs them, with every check. Does not need hivemind.

What is unpacked here comes from strangers: whatever the bytes, the worst that comes out is nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from p2pnet.network.interface import StoredValue

DICTIONARY_EXT_CODE = 0x50
"""hivemind's msgpack extension type of a dictionary: [max size, latest expiry, [[subkey, value, expiry], ...]]."""

MAX_EXPIRY_S = 1 << 43
"""Milliseconds after this do not fit a float64 exactly."""

_decode_ext = msgspec.msgpack.Decoder(msgspec.msgpack.Ext).decode
_decode_dictionary = msgspec.msgpack.Decoder(tuple[Any, Any, list[msgspec.Raw]]).decode
_decode_item = msgspec.msgpack.Decoder(tuple[str, bytes, float]).decode
_decode_text = msgspec.msgpack.Decoder(str).decode
_decode_bytes = msgspec.msgpack.Decoder(bytes).decode

_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


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
    """The well-formed entries of a dictionary, each on its own: a bad one hides no other."""
    values = (_entry(key_id, item) for item in _items(dictionary))
    return [value for value in values if value is not None]


def _items(dictionary: bytes) -> list[msgspec.Raw]:
    try:
        ext = _decode_ext(dictionary)
        return _decode_dictionary(ext.data)[2] if ext.code == DICTIONARY_EXT_CODE else []
    except _MALFORMED:
        return []


def _entry(key_id: bytes, item: msgspec.Raw) -> StoredValue | None:
    try:
        return unpack_value(key_id, *_decode_item(item))
    except _MALFORMED:
        return None
