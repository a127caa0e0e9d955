"""Streams in memory, as a relay is handed them, and the peers at their other ends."""

from __future__ import annotations

import asyncio
from collections import deque

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.libp2p.relay import FAREWELL
from p2pnet.network.libp2p.relay_service import STOP_PROTOCOL
from tests.stories import peer, settle

GATEWAY, WORKER = peer("gateway").peer_id, peer("worker").peer_id
PUBLIC = "/ip4/20.1.1.9/udp/4001/quic-v1"


class MemoryEnd:
    """The relay's end of a stream. A test says what comes (`come`), and that it ends (`go`), and finds what was sent.
    Like libp2p, the other end resets it when it reads a farewell."""

    def __init__(self, peer_id: str, address: str = PUBLIC, *coming: bytes) -> None:
        self.peer_id = peer_id
        self.address = address
        self.sent: list[bytes] = []
        self.is_closed = False
        self.is_gone = False
        self._coming = deque(coming)
        self._has_come = asyncio.Event()

    def come(self, data: bytes) -> None:
        self._coming.append(data)
        self._has_come.set()

    def go(self) -> None:
        self.is_gone = True
        self._has_come.set()

    async def read(self) -> bytes:
        await self.wait_unread()
        return self._coming.popleft() if self._coming else b""

    async def write(self, data: bytes) -> None:
        if self.is_gone:
            raise PeerLost("gone")
        self.sent.append(data)
        if data == FAREWELL:
            self.go()

    def stop_reading(self) -> None:
        """What comes is in `_coming` in any case."""

    async def wait_unread(self) -> None:
        while not self._coming and not self.is_gone:
            self._has_come.clear()
            await self._has_come.wait()

    def close(self) -> None:
        self.is_closed = True
        self.go()


class Workers:
    """Whom the relay can open streams to; each takes every circuit, unless its answer is another one."""

    def __init__(self, *peers: str, answer: bytes = b"\x04\x08\x01\x20\x64") -> None:
        self.there = set(peers)
        self.answer = answer
        self.streams: list[MemoryEnd] = []

    async def open(self, peer_id: str, protocol: str) -> MemoryEnd:
        assert protocol == STOP_PROTOCOL
        if peer_id not in self.there:
            raise PeerUnreachable("gone")
        stream = MemoryEnd(peer_id, "", self.answer)
        self.streams.append(stream)
        return stream


async def sent_by(end: MemoryEnd, count: int = 1) -> list[bytes]:
    """What has been sent over it, once that is so many messages."""
    await settle(lambda: len(end.sent) >= count)
    return end.sent
