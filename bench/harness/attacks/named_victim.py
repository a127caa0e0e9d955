"""Records of workers that do not exist, all of which name the addresses of one victim, so that gateways dial him."""

from __future__ import annotations

import asyncio
import socket
from types import TracebackType

from bench.harness.stranger import dht
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target

MODEL = "elsewhere"
"""Not the honest requests' model: the gateway looks at these workers, and nobody needs them."""
LIFETIME_MS = 120_000


class Victim:
    """Somebody who has nothing to do with the network, at a TCP and a UDP port of the same number. Counts what comes.
    Use as an asynchronous context manager."""

    def __init__(self) -> None:
        self.connections = 0
        self.received_bytes = 0
        self.port = 0

    async def __aenter__(self) -> Victim:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.setblocking(False)
        self._udp.bind(("127.0.0.1", self.port))
        asyncio.get_running_loop().add_reader(self._udp, self._receive)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        self._server.close()
        await self._server.wait_closed()

    def addresses(self, peer_id: str) -> tuple[str, ...]:
        """As a record names them."""
        transports = (f"tcp/{self.port}", f"udp/{self.port}/quic-v1")
        return tuple(f"/ip4/127.0.0.1/{transport}/p2p/{peer_id}" for transport in transports)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()

    def _receive(self) -> None:
        self.received_bytes += len(self._udp.recv(1 << 16))


async def attack(target: Target, records: int = 300, victim: Victim | None = None) -> None:
    """Announce so many at the bootstrap, one after the other, and be there until cancelled."""
    if victim is None:
        async with Victim() as own:
            await attack(target, records, own)
            return
    for _ in range(records):
        async with Stranger() as worker:
            connection = await worker.dial(target.bootstrap.tcp_address)
            named = victim.addresses(worker.peer_id)
            record = dht.capability(worker.identity, named, MODEL, lifetime_ms=LIFETIME_MS)
            await dht.announce(connection, worker.identity, record)
    await asyncio.Event().wait()
