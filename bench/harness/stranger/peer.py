"""A stranger: an identity, the peers that it dials, and what it serves to those that dial it.

It answers identify and ping, without which p2pd gives a connection up, and whatever else it is told to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from multiaddr import Multiaddr

from bench.harness.stranger.chunks import ChunkedStream
from bench.harness.stranger.connection import Connection, Handler, Stage, Tcp
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.noise import public_key_message
from bench.harness.stranger.yamux import MuxedStream
from p2pnet.errors import PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.interface import StreamHandler
from p2pnet.network.libp2p.protobuf import delimited, field
from p2pnet.network.multiaddrs import parts_of

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
BACKLOG = 4096
LIMIT_BYTES = 1 << 20
DIAL_TIMEOUT_S = 10.0


class Stranger:
    """One peer. `host` is the loopback address that it dials from and listens on: any of 127.0.0.0/8 will do.

    Use as an asynchronous context manager, or call `close`. Its connections end with it.
    """

    def __init__(self, identity: Identity | None = None, host: str = "127.0.0.1") -> None:
        self.identity = identity or Identity.generate()
        self.host = host
        self.accepted: list[Connection] = []
        """Connections of those that have dialled it, also those that have ended."""
        self._dialled: list[Connection] = []
        self._by_peer: dict[str, Connection] = {}
        self._handlers: dict[str, Handler] = {IDENTIFY: self._identify, PING: _ping}
        self._server: asyncio.Server | None = None
        self._addresses: tuple[str, ...] = ()

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    @property
    def addresses(self) -> tuple[str, ...]:
        """Full multiaddrs at which it listens; none before `listen`."""
        return self._addresses

    async def __aenter__(self) -> Stranger:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def dial(self, address: str, until: Stage = Stage.SERVING) -> Connection:
        """A new connection to the peer at a multiaddr /ip4/HOST/tcp/PORT[/...]. `until` says where it stops: with
        less than SERVING, whatever the peer asks is left unanswered. Raises what failed, TimeoutError after 10 s."""
        (_, host), (_, port) = parts_of(address)[:2]
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            tcp = Tcp(*await asyncio.open_connection(host, int(port), limit=LIMIT_BYTES, local_addr=(self.host, 0)))
            connection = Connection(tcp, self._handlers)
            self._dialled.append(connection)
            await connection.upgrade(self.identity, is_dialler=True, until=until)
        return connection

    async def listen(self, port: int = 0, until: Stage = Stage.SERVING) -> str:
        """Accept connections, each as far as `until`; returns the full multiaddr. With Stage.TCP, whoever dials it
        is accepted and hears nothing."""

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = Connection(Tcp(reader, writer), self._handlers)
            self.accepted.append(connection)
            try:
                await connection.upgrade(self.identity, is_dialler=False, until=until)
            except Exception:  # whoever dialled spoke another language, or went
                await connection.close()

        self._server = await asyncio.start_server(accept, self.host, port, backlog=BACKLOG, limit=LIMIT_BYTES)
        bound_port = self._server.sockets[0].getsockname()[1]
        address = f"/ip4/{self.host}/tcp/{bound_port}/p2p/{self.peer_id}"
        self._addresses = (address,)
        return address

    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer streams of a protocol, on all connections, with the bytes as they are."""
        self._handlers[protocol] = handler

    def serve_chunked(self, protocol: str, handler: StreamHandler) -> None:
        """Answer streams of one of p2pnet's own protocols: `handler` meets `interface.Stream`."""

        async def serve(connection: Connection, stream: MuxedStream) -> None:
            chunked = ChunkedStream(connection.peer_id, stream)
            await handler(chunked)
            await chunked.part_as_acceptor()

        self._handlers[protocol] = serve

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> ChunkedStream:
        """A stream of one of p2pnet's own protocols, as `interface.Network` opens them: `p2pnet.client`'s calls take
        a stranger for a network. Dials the first of `addresses` unless there is a connection that it has dialled so.
        Raises PeerUnreachable."""
        try:
            connection = self._by_peer.get(peer_id)
            if connection is None:
                connection = self._by_peer[peer_id] = await self.dial(addresses[0])
            return ChunkedStream(peer_id, await connection.open(protocol))
        except (OSError, EOFError, TimeoutError, NotAgreed) as error:
            self._by_peer.pop(peer_id, None)
            raise PeerUnreachable(f"no {protocol} stream to {peer_id}: {error}") from error

    async def close(self) -> None:
        """End all connections, and stop listening."""
        if self._server is not None:
            self._server.close()
        await asyncio.gather(*(connection.close() for connection in (*self._dialled, *self.accepted)))

    async def _identify(self, connection: Connection, stream: MuxedStream) -> None:
        message = field(1, public_key_message(self.identity)) + field(5, b"ipfs/0.1.0") + field(6, b"stranger")
        message += b"".join(field(2, _without_peer(address)) for address in self._addresses)
        message += b"".join(field(3, protocol.encode()) for protocol in self._handlers)
        await stream.write(delimited(message))


def _without_peer(address: str) -> bytes:
    return bytes(Multiaddr(address.rsplit("/p2p/", 1)[0]).to_bytes())


async def _ping(connection: Connection, stream: MuxedStream) -> None:
    while True:
        await stream.write(await stream.readexactly(PING_BYTES))
