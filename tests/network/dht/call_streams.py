"""Streams for calls of the DHT inside one process, and nodes that reach one another through them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.dht.serving import CallServer
from p2pnet.network.interface import BareStream, StoredValue
from tests.stories import NOW_MS

HOST = "/ip4/192.0.2.1/tcp/1"


class PairedStream:
    """One end of a stream. What is written at one end is read at the other, write by write."""

    def __init__(self, peer_id: str, address: str = HOST) -> None:
        self.peer_id = peer_id
        self.address = address
        self.other: PairedStream
        self.is_closed = False
        self.is_reading = True
        self._arrived: asyncio.Queue[bytes] = asyncio.Queue()
        self._unread: list[bytes] = []

    async def read(self) -> bytes:
        assert self.is_reading, "it was said that nothing would be read any more"
        return await self._arrived.get()

    async def write(self, data: bytes) -> None:
        if self.is_closed or self.other.is_closed:
            raise PeerLost("the stream is gone")
        self.other._arrived.put_nowait(data)

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.other._arrived.put_nowait(b"")

    def stop_reading(self) -> None:
        self.is_reading = False

    async def wait_unread(self) -> None:
        self._unread.append(await self._arrived.get())


def stream_pair(opener: str, server: str, address: str = HOST) -> tuple[PairedStream, PairedStream]:
    """The opener's end and the server's."""
    ours, theirs = PairedStream(server), PairedStream(opener, address)
    ours.other, theirs.other = theirs, ours
    return ours, theirs


class World:
    """Nodes that can all reach one another. Whoever is in `answers` is asked there instead of at its node."""

    def __init__(self, is_acceptable: Callable[[StoredValue], bool] = lambda _: True) -> None:
        self.nodes: dict[str, DhtNode] = {}
        self.answers: dict[str, Callable[[str, BareStream], object]] = {}
        self.opened: list[tuple[str, str, tuple[str, ...]]] = []
        """Who was dialled, for which protocol, and at which addresses."""
        self._servers: dict[str, CallServer] = {}
        self._is_acceptable = is_acceptable
        self._tasks: set[asyncio.Future[object]] = set()

    def join(self, identity: Identity, is_client: bool = False, timeout_s: float = 5.0) -> DhtNode:
        peer_id = identity.peer_id

        async def open_stream(whom: str, protocol: str, addresses: Sequence[str]) -> BareStream:
            return self._open(peer_id, whom, protocol, addresses)

        node = DhtNode(
            peer_id,
            is_client=is_client,
            is_acceptable=self._is_acceptable,
            now_ms=lambda: NOW_MS,
            open_stream=open_stream,
            own_addresses=lambda: (f"{HOST}/p2p/{peer_id}",),
            timeout_s=timeout_s,
        )
        self.nodes[peer_id] = node
        self._servers[peer_id] = CallServer()
        return node

    async def introduce(self, node: DhtNode, other: Identity) -> None:
        """Have a node meet another, as when it joins through it."""
        node.met(other.peer_id, (await node.ping(other.peer_id)).sender)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for node in self.nodes.values():
            await node.stop()

    def _open(self, opener: str, whom: str, protocol: str, addresses: Sequence[str]) -> BareStream:
        self.opened.append((whom, protocol, tuple(addresses)))
        ours, theirs = stream_pair(opener, whom)
        if whom in self.answers:
            self._begin(self.answers[whom](protocol, theirs))
        elif whom in self.nodes and protocol in self.nodes[whom].methods():
            self._begin(self._servers[whom].serve(theirs, self.nodes[whom].methods()[protocol]))
        else:
            raise PeerUnreachable(f"no {protocol} stream to {whom}")
        return ours

    def _begin(self, work: object) -> None:
        if asyncio.iscoroutine(work):
            task: asyncio.Future[object] = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
