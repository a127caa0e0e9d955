"""Opens this peer's streams, over an old connection or a new one, serves inbound ones, and knows all that are open.

Knows nothing of the DHT, nor of how p2pd is asked: it is handed what opens a stream's socket.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from p2pnet.errors import PeerUnreachable
from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS, Accept, StreamSocket, reason
from p2pnet.network.hivemind.p2pd_stream import P2pdStream, RawStream
from p2pnet.network.interface import Stream, StreamHandler

LEAVING_S = 5.0
"""How long a network that closes waits for its streams to part: their last bytes may still be on their way."""

MAX_PARTING = 256
"""Streams that part at the same time. It takes two round trips; but an end that says nothing has `PARTING_S`, so that
strangers could have us hold thousands. The oldest is dropped."""

MAX_REMEMBERED_USES = 8192
"""Peers of which it is known when they last had a stream: more than can be connected."""

OpenSocket = Callable[[str, str], Awaitable[StreamSocket]]
"""Open a stream of a protocol to a peer that is connected. Raises one of P2PD_ERRORS."""


class Streams:
    """All open streams, those that are just parting included."""

    def __init__(self, open_socket: OpenSocket, connections: Connections, open_timeout_s: float) -> None:
        self._open_socket = open_socket
        self._connections = connections
        self._open_timeout_s = open_timeout_s
        self._streams: set[RawStream] = set()
        self._idle: dict[RawStream, None] = {}
        """Those of others on which nothing is asked, in the order in which they became idle."""
        self._last_used_s: dict[str, float] = {}
        self._parting: dict[asyncio.Task[None], None] = {}

    @property
    def count(self) -> int:
        return len(self._streams)

    def peers(self) -> set[str]:
        """Those at the other ends of all that are not idle."""
        return {stream.peer_id for stream in self._streams if not stream.is_idle}

    def last_used_s(self, peer_id: str) -> float:
        """When a stream to or from a peer was opened or used last, by the event loop's clock; long ago when that is
        unknown."""
        return self._last_used_s.get(peer_id, float("-inf"))

    def peers_opened_to(self) -> set[str]:
        """Those at the other ends of streams that were opened here, for ourselves, and are not idle."""
        return {stream.peer_id for stream in self._streams if stream.is_ours and not stream.is_idle}

    def give_up_idle(self) -> bool:
        """Close the stream of another peer that has been idle for longest. Returns whether there was one."""
        if not self._idle:
            return False
        stream = next(iter(self._idle))
        del self._idle[stream]
        stream.abort()
        return True

    async def open(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """Open a stream of one of our own protocols. Raises PeerUnreachable."""
        raw = await self.open_raw(peer_id, protocol, addresses)
        return P2pdStream(raw, is_opener=True, in_background=self._in_background)

    async def open_raw(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> RawStream:
        """Open a stream of one of libp2p's own protocols. Raises PeerUnreachable."""
        has_moved = self._connections.has_moved(peer_id, addresses) and not self.is_in_use(peer_id)
        self._connections.learn(addresses)
        try:
            async with asyncio.timeout(self._open_timeout_s):
                if has_moved:
                    await self._connections.hang_up(peer_id)
                if peer_id in self._connections:
                    # The usual case costs one round trip; a connection that has gone is noticed and dialled again.
                    with contextlib.suppress(*P2PD_ERRORS):
                        return await self._open_connected(peer_id, protocol)
                await self._connections.connect(peer_id)
                return await self._open_connected(peer_id, protocol)
        except P2PD_ERRORS as error:
            self._connections.forget(peer_id)
            raise PeerUnreachable(f"no {protocol} stream to {peer_id}: {reason(error)}") from error

    def serving(self, handler: StreamHandler) -> Accept:
        """What accepts inbound streams and lets `handler` serve them."""

        async def accept(
            peer_id: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            raw = self._track(peer_id, reader, writer, address)
            stream = P2pdStream(raw, is_opener=False, in_background=self._in_background)
            try:
                await handler(stream)
            except BaseException:
                stream.drop()
                raise
            stream.close()

        return accept

    def serving_raw(self, handler: Callable[[RawStream], Awaitable[None]]) -> Accept:
        """The same for a protocol that is not one of ours: `handler` is handed the bytes as they are, and closes the
        stream."""

        async def accept(
            peer_id: str, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            raw = self._track(peer_id, reader, writer, address)
            try:
                await handler(raw)
            finally:
                raw.close()

        return accept

    async def wait_parted(self) -> None:
        """Wait until those that were closed have parted from their other ends, for a while."""
        if self._parting:
            await asyncio.wait(self._parting, timeout=LEAVING_S)

    async def open_for_others(self, peer_id: str, protocol: str) -> RawStream:
        """Open a stream for somebody who asked for it, over a connection that there is. Raises PeerUnreachable."""
        try:
            async with asyncio.timeout(self._open_timeout_s):
                return await self._open_connected(peer_id, protocol, is_ours=False)
        except P2PD_ERRORS as error:
            raise PeerUnreachable(f"no {protocol} stream to {peer_id}: {reason(error)}") from error

    async def _open_connected(self, peer_id: str, protocol: str, is_ours: bool = True) -> RawStream:
        try:
            reader, writer = await self._open_socket(peer_id, protocol)
        except BaseException:
            self._connections.forget(peer_id)
            raise
        return self._track(peer_id, reader, writer, is_ours=is_ours)

    def is_in_use(self, peer_id: str, besides: object = None) -> bool:
        """Whether a stream would be lost with the connection: those who wait for it will notice by themselves when
        nothing comes."""
        return any(stream.peer_id == peer_id and stream.is_in_use and stream is not besides for stream in self._streams)

    def _track(
        self,
        peer_id: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str = "",
        is_ours: bool = False,
    ) -> RawStream:
        stream = RawStream(peer_id, reader, writer, self._forget, address, is_ours, self._note_idle)
        self._streams.add(stream)
        self._note_used(peer_id)
        return stream

    def _forget(self, stream: RawStream) -> None:
        self._streams.discard(stream)
        self._idle.pop(stream, None)

    def _note_idle(self, stream: RawStream) -> None:
        """It has become idle, or is used again."""
        self._note_used(stream.peer_id)
        self._idle.pop(stream, None)
        if stream.is_idle and not stream.is_ours:
            self._idle[stream] = None

    def _note_used(self, peer_id: str) -> None:
        self._last_used_s.pop(peer_id, None)
        self._last_used_s[peer_id] = asyncio.get_running_loop().time()
        if len(self._last_used_s) > MAX_REMEMBERED_USES:
            del self._last_used_s[next(iter(self._last_used_s))]

    def _in_background(self, parting: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(parting)
        self._parting[task] = None
        task.add_done_callback(lambda done: self._parting.pop(done, None))
        if len(self._parting) > MAX_PARTING:
            oldest = next(iter(self._parting))
            del self._parting[oldest]
            oldest.cancel()
        return task
