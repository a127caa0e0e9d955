"""Encodes and decodes as much of protobuf as libp2p's own protocols need.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT = 0
_FIXED_64 = 1
_LENGTH_DELIMITED = 2

_ONE_BYTE = [bytes([number]) for number in range(0x80)]
"""Most varints, ready made: a node of the DHT reads and writes a hundred of them for each answer."""


def field(number: int, value: int | bytes) -> bytes:
    """One field: a varint, or bytes behind their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | _LENGTH_DELIMITED) + delimited(value)


def fixed_64(number: int, value: bytes) -> bytes:
    """One field of eight bytes: a double, for instance."""
    return varint(number << 3 | _FIXED_64) + value


def delimited(message: bytes) -> bytes:
    """A message behind its length, as libp2p's protocols send it."""
    return varint(len(message)) + message


def varint(number: int) -> bytes:
    if 0 <= number < 0x80:
        return _ONE_BYTE[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def fields_of(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message: numbers, and bytes; of repeated ones the last. Raises ValueError for other wire
    types, IndexError when it is cut off."""
    return dict(each_field(message, at_most=len(message)))


def each_field(message: bytes, at_most: int) -> Iterator[tuple[int, int | bytes]]:
    """The fields in their order, repeated ones too: numbers as int, bytes and fixed 64 bits as bytes. Raises ValueError
    for other wire types and for more fields than `at_most`, IndexError when it is cut off."""
    position = count = 0
    while position < len(message):
        if count == at_most:
            raise ValueError(f"more than {at_most} fields")
        count += 1
        tag, position = read_varint(message, position)
        if tag & 7 == _FIXED_64:
            value: int | bytes = message[position : position + 8]
            position += 8
        else:
            number, position = read_varint(message, position)
            value = number
            if tag & 7 == _LENGTH_DELIMITED:
                value = message[position : position + number]
                position += number
            elif tag & 7 != _VARINT:
                raise ValueError(f"wire type {tag & 7}")
        if position > len(message):
            raise IndexError("cut off")
        yield tag >> 3, value


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned varint and where it ends. Raises IndexError when it is cut off, ValueError when it is too long."""
    if (first := data[position]) < 0x80:
        return first, position + 1
    result = shift = 0
    while shift < 64:
        byte = data[position]
        result |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return result, position
    raise ValueError("a varint of more than 64 bits")
