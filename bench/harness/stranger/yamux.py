"""Carries many streams over one secured connection, by yamux.

https://github.com/hashicorp/yamux/blob/master/spec.md
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from bench.harness.stranger.channel import Channel

PROTOCOL = "/yamux/1.0.0"
WINDOW_BYTES = 1 << 18
MAX_FRAME_BYTES = 1 << 16

DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
_HEADER = struct.Struct(">BBHII")

ENDINGS = (OSError, EOFError, InvalidTag)
"""What reading a connection raises when it has ended."""


class MuxedStream:
    """One stream. What is never read gives the other end no more room: that is its flow control."""

    def __init__(self, session: Session, number: int) -> None:
        self._session = session
        self._number = number
        self._reader = asyncio.StreamReader()
        self._room = WINDOW_BYTES
        self._has_room = asyncio.Event()
        self._is_reset = False
        self._owed = 0

    async def read(self, max_bytes: int = 1 << 16) -> bytes:
        """What has come, at least a byte; b"" at the end. Raises ConnectionResetError after a reset."""
        data = await self._reader.read(max_bytes)
        await self._give_room(len(data))
        return data

    async def readexactly(self, count: int) -> bytes:
        """Exactly so many bytes. Raises IncompleteReadError at the end, ConnectionResetError after a reset."""
        parts: list[bytes] = []
        missing = count
        while missing:
            if not (data := await self.read(missing)):
                raise asyncio.IncompleteReadError(b"".join(parts), count)
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Send all of it; waits for room. Raises ConnectionResetError when the stream or connection is gone."""
        while data:
            await self._wait_for_room()
            part = data[: min(self._room, MAX_FRAME_BYTES)]
            self._room -= len(part)
            data = data[len(part) :]
            await self._session.send(DATA, 0, self._number, len(part), part)

    async def close(self) -> None:
        """End our direction of it. Never raises."""
        with contextlib.suppress(OSError):
            await self._session.send(DATA, FIN, self._number, 0)

    async def reset(self) -> None:
        """End it at once in both directions. Never raises."""
        with contextlib.suppress(OSError):
            await self._session.send(WINDOW, RST, self._number, 0)
        self.break_off()

    def take(self, kind: int, flags: int, length: int, data: bytes) -> None:
        """A frame has come for it."""
        if kind == WINDOW:
            self._room += length
            self._has_room.set()
        elif data:
            self._reader.feed_data(data)
        if flags & RST:
            self.break_off()
        elif flags & FIN:
            self._reader.feed_eof()

    def break_off(self) -> None:
        """It is gone: whoever waits for it is told."""
        self._is_reset = True
        self._has_room.set()
        self._reader.set_exception(ConnectionResetError("the stream was reset"))
        self._session.drop(self._number)

    async def _wait_for_room(self) -> None:
        while not self._room and not self._is_reset:
            self._has_room.clear()
            await self._has_room.wait()
        if self._is_reset:
            raise ConnectionResetError("the stream was reset")

    async def _give_room(self, count: int) -> None:
        self._owed += count
        if self._owed >= WINDOW_BYTES // 2:
            owed, self._owed = self._owed, 0
            with contextlib.suppress(OSError):
                await self._session.send(WINDOW, 0, self._number, owed)


class Session:
    """All streams of a connection. `on_stream` is handed each that the other end opens."""

    def __init__(self, channel: Channel, is_client: bool, on_stream: Callable[[MuxedStream], None]) -> None:
        self._channel = channel
        self._on_stream = on_stream
        self._next = 1 if is_client else 2
        self._streams: dict[int, MuxedStream] = {}
        self._is_closed = False

    async def open(self) -> MuxedStream:
        """A new stream; nothing is said on it."""
        stream = self._streams[self._next] = MuxedStream(self, self._next)
        self._next += 2
        await self.send(WINDOW, SYN, self._next - 2, 0)
        return stream

    async def send(self, kind: int, flags: int, stream: int, length: int, data: bytes = b"") -> None:
        """Send one frame, whatever it says. Raises ConnectionError when the connection is gone."""
        if self._is_closed:
            raise ConnectionResetError("the connection is closed")
        await self._channel.write(_HEADER.pack(0, kind, flags, stream, length) + data)

    def drop(self, number: int) -> None:
        self._streams.pop(number, None)

    async def run(self) -> None:
        """Take frames until the connection ends. Never raises."""
        try:
            with contextlib.suppress(*ENDINGS):
                while True:
                    await self._take_frame()
        finally:
            self._is_closed = True
            for stream in list(self._streams.values()):
                stream.break_off()

    async def _take_frame(self) -> None:
        _, kind, flags, number, length = _HEADER.unpack(await self._channel.readexactly(_HEADER.size))
        data = await self._channel.readexactly(length) if kind == DATA else b""
        if kind == PING:
            if flags & SYN:
                await self.send(PING, ACK, 0, length)
        elif kind == GO_AWAY:
            raise ConnectionResetError("the other end goes away")
        else:
            if flags & SYN:
                self._streams[number] = MuxedStream(self, number)
                await self.send(WINDOW, ACK, number, 0)
                self._on_stream(self._streams[number])
            if number in self._streams:
                self._streams[number].take(kind, flags, length, data)
