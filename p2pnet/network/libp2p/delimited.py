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
    data = b""
    while len(data) < MAX_REPLY_BYTES and (more := await stream.read()):
        data += more
        try:
            message = _first_message(data)
        except ValueError:
            return None
        if message is not None:
            return message
    return None


def _first_message(data: bytes) -> bytes | None:
    """The first message in `data`; None when more must come. Raises ValueError when none can."""
    try:
        length, start = read_varint(data, 0)
    except IndexError:  # the length itself is cut off
        return None
    return data[start : start + length] if len(data) >= start + length else None
