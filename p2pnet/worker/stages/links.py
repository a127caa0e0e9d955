"""Keeps one stream to each of the stages that rows are passed on to. Knows nothing of what they carry."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from p2pnet.errors import PeerError, PeerLost
from p2pnet.network.interface import Network, Stream
from p2pnet.stage_messages import NEXT_LOST, StageRefusal
from p2pnet.wire.stage_frames import STAGE_PROTOCOL

MAX_LINKS = 64
"""Stages that come after this one in some driver's chain; the one not used for longest is let go."""

PASS_ON_S = 10.0
"""How long a row may take to a stage that reads: it holds up those of other drivers behind it."""

FindAddresses = Callable[[str], Awaitable[Sequence[str]]]
"""Where a peer is dialled that announces layers of this model. Raises StageRefusal for anybody else: a driver must not
have a stage dial whom it likes."""


class Link:
    """A stream to one stage. What comes back on it says nothing: that stage tells the driver itself."""

    def __init__(self, network: Network, peer_id: str, find: FindAddresses) -> None:
        self._network = network
        self._peer_id = peer_id
        self._find = find
        self._lock = asyncio.Lock()
        self._stream: Stream | None = None
        self._ending: asyncio.Task[None] | None = None

    async def send(self, data: bytes) -> None:
        """Raises StageRefusal."""
        try:
            async with asyncio.timeout(PASS_ON_S), self._lock:
                stream = self._stream or await self._open()
                await stream.write(data)
        except (PeerError, TimeoutError) as error:
            self.close()
            raise StageRefusal(NEXT_LOST, "the next stage cannot be reached") from error

    def close(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
        if self._stream is not None:
            self._stream.close()
        self._stream = self._ending = None

    async def _open(self) -> Stream:
        addresses = await self._find(self._peer_id)
        stream = await self._network.open_stream(self._peer_id, STAGE_PROTOCOL, addresses)
        self._stream = stream
        self._ending = asyncio.create_task(self._read_to_end(stream))
        return stream

    async def _read_to_end(self, stream: Stream) -> None:
        with suppress(PeerLost):
            while await stream.read():
                pass
        stream.close()
        if self._stream is stream:
            self._stream = None


class Links:
    """All of them."""

    def __init__(self, network: Network, find: FindAddresses) -> None:
        self._network = network
        self._find = find
        self._links: OrderedDict[str, Link] = OrderedDict()

    async def send(self, peer_id: str, data: bytes) -> None:
        """Send a frame to a stage. Raises StageRefusal when it cannot be reached."""
        link = self._links.setdefault(peer_id, Link(self._network, peer_id, self._find))
        self._links.move_to_end(peer_id)
        if len(self._links) > MAX_LINKS:
            self._links.popitem(last=False)[1].close()
        await link.send(data)

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        self._links.clear()
