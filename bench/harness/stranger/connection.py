"""Upgrades a TCP connection to a libp2p one, and opens and serves streams on it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from enum import Enum

from bench.harness.stranger import multistream, noise, yamux
from bench.harness.stranger.yamux import ENDINGS, MuxedStream, Session
from p2pnet.identity import Identity

Handler = Callable[["Connection", MuxedStream], Awaitable[None]]
"""Serves one stream, which is closed when it returns."""


class Stage(Enum):
    """How far a connection goes before it falls silent."""

    TCP = "accepted or dialled, and nothing said"
    SECURED = "Noise is done, no muxer is agreed on"
    MUXED = "complete, but no stream is answered"
    SERVING = "complete, and all streams are answered"


class Tcp:
    """A TCP connection as a Channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def readexactly(self, count: int) -> bytes:
        return await self._reader.readexactly(count)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()


class Connection:
    """A connection to one peer. Made by `Stranger.dial`, and for each that dials the stranger."""

    def __init__(self, tcp: Tcp, handlers: dict[str, Handler]) -> None:
        self._tcp = tcp
        self._handlers = handlers
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: Session
        self.peer_id = ""
        """Who is at the other end; "" until that is proven."""
        self.stage = Stage.TCP

    async def upgrade(self, identity: Identity, is_dialler: bool, until: Stage = Stage.SERVING) -> None:
        """Agree on Noise and yamux, as far as `until`."""
        if until is Stage.TCP:
            return
        await _agree(self._tcp, noise.PROTOCOL, is_dialler)
        secured = await noise.Handshake(identity).run(self._tcp, is_dialler)
        self.peer_id, self.stage = secured.peer_id, Stage.SECURED
        if until is Stage.SECURED:
            return
        await _agree(secured, yamux.PROTOCOL, is_dialler)
        self._session = Session(secured, is_dialler, self._serve if until is Stage.SERVING else _ignore)
        self.stage = until
        self._begin(self._session.run())

    async def open(self, protocol: str) -> MuxedStream:
        """A stream of a protocol that the other end has agreed to. Raises NotAgreed, ConnectionError."""
        stream = await self._session.open()
        try:
            await multistream.propose(stream, protocol)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the stream ended before it was agreed on") from error
        return stream

    async def open_unnamed(self, data: bytes = b"") -> MuxedStream:
        """A stream for which no protocol was agreed on: half-open. `data` is all that is said on it."""
        stream = await self._session.open()
        if data:
            await stream.write(data)
        return stream

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, from either side."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """End it, and all that is served on it."""
        self._tcp.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, stream: MuxedStream) -> None:
        self._begin(self._answer(stream))

    async def _answer(self, stream: MuxedStream) -> None:
        with contextlib.suppress(*ENDINGS, multistream.NotAgreed):
            protocol = await multistream.accept(stream, self._handlers)
            await self._handlers[protocol](self, stream)
        await stream.close()

    def _begin(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _agree(channel: Tcp | noise.Noise, protocol: str, is_dialler: bool) -> None:
    if is_dialler:
        await multistream.propose(channel, protocol)
    else:
        await multistream.accept(channel, {protocol})


def _ignore(stream: MuxedStream) -> None:
    """An inbound stream that nobody answers."""
