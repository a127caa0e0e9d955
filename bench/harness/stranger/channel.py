"""What the layers of a stranger's connection look like to one another: bytes in order, in both directions."""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """TCP, Noise over it, or one stream of a muxer."""

    async def readexactly(self, count: int) -> bytes:
        """Exactly so many bytes. Raises asyncio.IncompleteReadError at the end, and ConnectionError after a reset."""

    async def write(self, data: bytes) -> None:
        """Send all of it; waits while the other end is slow. Raises ConnectionError when it is gone."""


async def read_varint(channel: Channel) -> int:
    """An unsigned varint: lengths of messages."""
    result = shift = 0
    while True:
        (byte,) = await channel.readexactly(1)
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result
        shift += 7


async def read_delimited(channel: Channel) -> bytes:
    """A message behind its length."""
    return await channel.readexactly(await read_varint(channel))
