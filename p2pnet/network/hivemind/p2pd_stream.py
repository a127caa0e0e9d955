"""Wraps a libp2p stream as p2pd hands it out, and parts its two ends cleanly.

Every write travels as a chunk: 4 bytes of length, big-endian, then the bytes. An empty chunk is a mark. The marks are
there because p2pd cannot half-close: whichever side closes its socket, p2pd closes the stream and then resets it. Over
QUIC a reset throws away what has not been read yet. And where the close has come, and then the reset before the end was
read, quic-go (0.39, `receiveStream`) never gives the stream back: an opener's p2pd grows by a kilobyte with each, an
acceptor's lets nobody open another after some hundred. So the side that accepted the stream ends it, once all was read,
by a reset alone. p2pd does that when its socket fails, and on Linux it fails when we close ours with bytes unread:

    opener                                      acceptor
    close(): "stop"              ---- mark ---->  its reads end, its work stops
                                 <--- mark -----  "that was all"
    all has been read            ---- mark ---->  reads no more
                                 <--- mark -----  "let go"
    has nothing to lose          ---- mark ---->  leaves this unread, and closes its socket
    closes its socket            <--- reset -----

Knows nothing of frames, protocols or hivemind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from p2pnet.errors import PeerLost

READ_CHUNK_BYTES = 1 << 16
LENGTH_BYTES = 4
MARK = bytes(LENGTH_BYTES)

PARTING_S = 30.0
"""How long the other end may take to part: a backend on a slow machine is this long in one step. Then it is dropped."""

LETTING_GO_S = 3.0
"""How long an acceptor waits for the last mark: some round trips over a bad line. Older openers do not send it, and all
else has been read."""

InBackground = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Run something whose end nobody here waits for."""


class RawStream:
    """Bytes as they are: for protocols that are not ours. `on_close` is told each time that it is closed, and `on_idle`
    when it becomes idle or is used again. `address` is where the connection of an inbound one comes from; `is_ours` one
    that we have opened for ourselves."""

    def __init__(
        self,
        peer_id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_close: Callable[[RawStream], None],
        address: str = "",
        is_ours: bool = False,
        on_idle: Callable[[RawStream], None] = lambda stream: None,
    ) -> None:
        self.address = address
        self.is_ours = is_ours
        self._peer_id = peer_id
        self._reader = reader
        self._writer = writer
        self._on_close = on_close
        self._on_idle = on_idle
        self._has_more_to_say = True
        self._is_idle = False

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def is_in_use(self) -> bool:
        """While it is not idle, and until our end has said all that it had to say: it may be parting for a while after
        that."""
        return self._has_more_to_say and not self._is_idle

    @property
    def is_idle(self) -> bool:
        return self._is_idle

    @is_idle.setter
    def is_idle(self, is_idle: bool) -> None:
        self._is_idle = is_idle
        self._on_idle(self)

    def end_use(self) -> None:
        """Our end has said all."""
        self._has_more_to_say = False

    async def read(self) -> bytes:
        try:
            return await self._reader.read(READ_CHUNK_BYTES)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():  # uvloop raises RuntimeError then, where asyncio's drain raises OSError
            raise PeerLost(f"the stream to {self._peer_id} is gone")
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise PeerLost(f"the stream to {self._peer_id} is gone") from error

    def close(self) -> None:
        self._on_close(self)
        self._writer.close()

    def abort(self) -> None:
        """Close the socket at once, for whoever reads it, too."""
        self._writer.transport.abort()

    def stop_reading(self) -> None:
        """What comes from now on stays unread."""
        if not self._writer.is_closing():
            cast(asyncio.Transport, self._writer.transport).pause_reading()

    async def wait_unread(self) -> None:
        """After `stop_reading`: wait until something has come, or the end."""
        if self._writer.is_closing():
            return
        loop, has_come = asyncio.get_running_loop(), asyncio.Event()
        # The transport owns its file descriptor, also while it is paused: another one of the same socket is watched.
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as same:
            loop.add_reader(same, has_come.set)
            try:
                await has_come.wait()
            finally:
                loop.remove_reader(same)


class P2pdStream:
    """One end of a stream of ours. See `interface.Stream`. `in_background` runs its parting to the end."""

    def __init__(self, raw: RawStream, is_opener: bool, in_background: InBackground) -> None:
        self._raw = raw
        self._is_opener = is_opener
        self._in_background = in_background
        self._task: asyncio.Task[None] | None = None
        self._receiving = asyncio.Lock()
        """Who closes a stream that another still reads, reads on after that one: two cannot read at the same time."""
        self._header = b""
        self._chunk_left = 0
        self._marks = 0
        self._is_gone = False

    @property
    def peer_id(self) -> str:
        return self._raw.peer_id

    @property
    def is_idle(self) -> bool:
        return self._raw.is_idle

    @is_idle.setter
    def is_idle(self, is_idle: bool) -> None:
        self._raw.is_idle = is_idle

    async def read(self) -> bytes:
        async with self._receiving:
            while not self._marks and not self._is_gone:
                if data := self._unwrap(await self._receive()):
                    return data
        return b""

    async def write(self, data: bytes) -> None:
        if self._task is not None:
            raise PeerLost(f"the stream to {self.peer_id} is closed")
        if data:  # an empty chunk is a mark
            await self._raw.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)

    def close(self) -> None:
        """Part from the other end, in the background: the network waits for that before it ends."""
        if self._task is None:
            self._raw.end_use()
            self._task = self._in_background(self._part())
            self._task.add_done_callback(lambda _: self._raw.close())  # also of one that was cancelled before it began

    def drop(self) -> None:
        """Close the socket at once."""
        self._raw.close()

    async def _part(self) -> None:
        with contextlib.suppress(PeerLost, TimeoutError):
            async with asyncio.timeout(PARTING_S):
                await self._raw.write(MARK)
                await (self._wait_for_reset() if self._is_opener else self._let_go())

    async def _wait_for_reset(self) -> None:
        """The opener's part, once it has said stop."""
        for marks in (1, 2):
            await self._read_past_marks(marks)
            if not self._is_gone:
                await self._raw.write(MARK)
        while not self._is_gone:
            await self._receive()

    async def _let_go(self) -> None:
        """The acceptor's part, once it has said that this was all."""
        await self._read_past_marks(2)
        if not self._is_gone:
            self._raw.stop_reading()
            await self._raw.write(MARK)
            async with asyncio.timeout(LETTING_GO_S):
                await self._raw.wait_unread()

    async def _read_past_marks(self, count: int) -> None:
        async with self._receiving:
            while self._marks < count and not self._is_gone:
                self._unwrap(await self._receive())

    async def _receive(self) -> bytes:
        data = await self._raw.read()
        self._is_gone = not data
        return data

    def _unwrap(self, data: bytes) -> bytes:
        """The contents of the chunks in `data`, up to a first mark; marks are counted."""
        contents = bytearray()
        position = 0
        while position < len(data):
            if not self._chunk_left:
                missing = LENGTH_BYTES - len(self._header)
                self._header += data[position : position + missing]
                position += missing
                if len(self._header) < LENGTH_BYTES:
                    break
                self._chunk_left = int.from_bytes(self._header, "big")
                self._header = b""
                self._marks += not self._chunk_left
                continue
            part = data[position : position + self._chunk_left]
            position += len(part)
            self._chunk_left -= len(part)
            if not self._marks:
                contents += part
        return bytes(contents)
