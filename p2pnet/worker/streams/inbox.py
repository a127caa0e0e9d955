"""Reads one inbound stream, and keeps what has come of it before anybody wanted it.

Knows nothing of what is said, but for where a frame ends.
"""

from __future__ import annotations

from p2pnet.network.interface import Stream
from p2pnet.wire.codec import LENGTH_BYTES


class Inbox:
    """What comes on a stream."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.waiting = b""
        """What has come and has not been read."""

    async def read(self) -> bytes:
        """What has come, at least a byte; b"" once the stream has ended."""
        if not self.waiting:
            return await self.stream.read()
        data, self.waiting = self.waiting, b""
        return data

    async def wait(self) -> bool:
        """Wait until more has come, which stays here. False once the stream has ended. Nothing is lost to whoever is
        cancelled meanwhile."""
        data = await self.stream.read()
        self.waiting += data
        return bool(data)

    def frame(self, max_frame_bytes: int) -> bytes | None:
        """The frame that waits, with its length; b"" while it is not whole. None when it is longer than this."""
        if len(self.waiting) < LENGTH_BYTES:
            return b""
        length = int.from_bytes(self.waiting[:LENGTH_BYTES], "big")
        if length > max_frame_bytes:
            return None
        end = LENGTH_BYTES + length
        return self.waiting[:end] if len(self.waiting) >= end else b""
