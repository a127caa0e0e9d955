"""p2pnet's own streams: chunks behind their lengths, and the marks by which the two ends part.

See `p2pnet.network.hivemind.p2pd_stream`. Implements `p2pnet.network.interface.Stream` over a stranger's stream.
"""

from __future__ import annotations

import asyncio
import contextlib

from bench.harness.stranger.yamux import MuxedStream
from p2pnet.errors import PeerLost

LENGTH_BYTES = 4
MARK = bytes(LENGTH_BYTES)
PARTING_S = 3.0


def chunk(data: bytes) -> bytes:
    """One chunk; of b"" it is a mark."""
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


class ChunkedStream:
    """`raw` is the stream below, for what does not follow the rules."""

    def __init__(self, peer_id: str, raw: MuxedStream) -> None:
        self.peer_id = peer_id
        self.raw = raw
        self._tasks: list[asyncio.Task[None]] = []
        self._is_ended = False

    async def read(self) -> bytes:
        """The next chunk; b"" at a mark, at the end, and when the stream is gone."""
        if self._is_ended:
            return b""
        data = b""
        with contextlib.suppress(OSError, EOFError):
            length = int.from_bytes(await self.raw.readexactly(LENGTH_BYTES), "big")
            data = await self.raw.readexactly(length)
        self._is_ended = not data
        return data

    async def write(self, data: bytes) -> None:
        """Send a chunk. Raises PeerLost."""
        try:
            await self.raw.write(chunk(data))
        except OSError as error:
            raise PeerLost(f"the stream to {self.peer_id} is gone") from error

    def close(self) -> None:
        """Say stop, as an opener does, and let go soon, in the background."""
        if not self._tasks:
            self._tasks.append(asyncio.ensure_future(self._part()))

    async def part_as_acceptor(self) -> None:
        """Say that this was all, and reset it once the other end has read it."""
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(PARTING_S):
                await self.raw.write(MARK)
                while await self.raw.read():
                    pass
        await self.raw.reset()

    async def _part(self) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            async with asyncio.timeout(PARTING_S):
                for _ in range(2):
                    await self.raw.write(MARK)
                    await self._read_mark()
                await self.raw.write(MARK)
                while await self.raw.read():
                    pass
        await self.raw.reset()

    async def _read_mark(self) -> None:
        if self._is_ended:
            self._is_ended = False
            return
        while await self.read():
            pass
        self._is_ended = False
