"""Reads one message behind its length from a stream, as libp2p's own protocols send it.

Knows nothing of what is in a message. What comes is a stranger's: it is bounded, and junk reads as no message.
"""

from __future__ import annotations

from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.protobuf import read_varint

MAX_REPLY_BYTES = 1 << 16


async def read_message(stream: Stream) -> bytes | None:
    """The first message that comes, without its length. None when the stream ends before it does, when it is too long,
    and when its length makes no sense."""
    found = await read_message_and_rest(stream)
    return None if found is None else found[0]


async def read_message_and_rest(stream: Stream) -> tuple[bytes, bytes] | None:
    """The same, and what came behind it."""
    data = b""
    while len(data) < MAX_REPLY_BYTES and (more := await stream.read()):
        data += more
        try:
            found = _first_message(data)
        except ValueError:
            return None
        if found is not None:
            return found
    return None


def _first_message(data: bytes) -> tuple[bytes, bytes] | None:
    """The first message in `data`, and the rest; None when more must come. Raises ValueError when none can."""
    try:
        length, start = read_varint(data, 0)
    except IndexError:  # the length itself is cut off
        return None
    end = start + length
    return (data[start:end], data[end:]) if len(data) >= end else None
