"""Encodes and decodes as much of protobuf as libp2p's own protocols need.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations


def field(number: int, value: int | bytes) -> bytes:
    """One field: a varint, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + delimited(value)


def delimited(message: bytes) -> bytes:
    """A message behind its length, as libp2p's protocols send it."""
    return varint(len(message)) + message


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def fields_of(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message: numbers, and bytes; of repeated ones the last. Raises ValueError for other wire
    types, IndexError when it is cut off."""
    found: dict[int, int | bytes] = {}
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        value, position = read_varint(message, position)
        if tag & 7 == 0:
            found[tag >> 3] = value
        elif tag & 7 == 2:
            found[tag >> 3] = message[position : position + value]
            position += value
        else:
            raise ValueError(f"wire type {tag & 7}")
    return found


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned varint and where it ends. Raises IndexError when it is cut off, ValueError when it is too long."""
    result = shift = 0
    while shift < 64:
        byte = data[position]
        result |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return result, position
    raise ValueError("a varint of more than 64 bits")
