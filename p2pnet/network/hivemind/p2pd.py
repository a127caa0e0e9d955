"""Runs this peer's p2pd, one process after another, and asks it through its control socket.

Owns what each new process is given again: the ports once chosen, and the protocols that are served. Knows nothing of
the DHT, of who is connected, or of what streams carry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import base58
import psutil
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.config import NetworkConfig
from p2pnet.errors import DaemonFailed
from p2pnet.network.crowd import Connection
from p2pnet.network.hivemind.bindings import (
    P2P,
    P2PDaemonError,
    P2PHandlerError,
    PeerID,
    StreamInfo,
    p2pd_pb2,
    raise_if_failed,
    read_pbmsg_safe,
    write_pbmsg,
)
from p2pnet.network.hivemind.bindings import Multiaddr as HivemindMultiaddr
from p2pnet.network.hivemind.daemon import Daemon
from p2pnet.network.hivemind.file_limit import raise_file_limit
from p2pnet.network.hivemind.inbound_sockets import InboundSockets
from p2pnet.network.hivemind.listening import check_bound, with_chosen_ports
from p2pnet.network.inbound import MAX_INBOUND_STREAMS, InboundStream, InboundStreams
from p2pnet.network.multiaddrs import address_group, without_peer_id, worth_announcing

logger = logging.getLogger(__name__)

P2PD_ERRORS = (P2PDaemonError, P2PHandlerError, OSError, EOFError, TimeoutError)
"""What asking a peer through p2pd raises when the peer, or p2pd, is not there."""

_ANOTHER = re.compile(r"peer id mismatch: expected \w+, but remote key matches (\w+)")

StreamSocket = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""The unix socket through which p2pd passes the bytes of one stream."""

Accept = Callable[[str, str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Serve one inbound stream: the peer at its other end, the multiaddr its connection comes from, and the stream's
socket."""


class P2pd:
    """One p2pd at a time. When it has died, `start` puts another in its place, which is the same peer to others."""

    def __init__(self, config: NetworkConfig, peer_id: str) -> None:
        self._config = config
        self._peer_id = peer_id
        self._listen = config.listen
        self._served: dict[str, Accept] = {}
        self.inbound = InboundStreams(min(MAX_INBOUND_STREAMS, raise_file_limit() // 2))
        """The streams that others have opened to us, of all protocols that are served here."""
        self._addresses: tuple[str, ...] = ()
        self._sockets = InboundSockets()
        self._daemon: Daemon
        self._p2p: P2P

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def p2p(self) -> P2P:
        """hivemind's interface to the p2pd that runs now."""
        return self._p2p

    @property
    def last_addresses(self) -> tuple[str, ...]:
        """What `addresses` said last."""
        return self._addresses

    async def start(self) -> None:
        """Start a process and attach to it. Raises DaemonFailed."""
        self._daemon = await Daemon.start(self._config, self._listen)
        try:
            async with asyncio.timeout(self._config.start_timeout_s):
                self._p2p = await attach(self._daemon, self._sockets)
        except BaseException as error:
            await self._daemon.stop()
            if isinstance(error, TimeoutError):
                raise DaemonFailed("p2pd runs and says nothing.", "Try again on a less busy machine.") from error
            raise

    async def wait(self) -> int:
        """Wait for the end of the process, wanted or not; returns the exit status."""
        return await self._daemon.wait()

    def kill(self) -> None:
        """End the process at once: whoever waits for its end starts the next one."""
        self._daemon.kill()

    def memory_bytes(self) -> int:
        """What the process has in memory now; 0 when there is none."""
        try:
            return int(psutil.Process(self._daemon.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def stop(self) -> None:
        """End the process, also when it has died already."""
        await self._daemon.stop()
        await self._sockets.accepted()
        await self._p2p.shutdown()
        await self._sockets.close()

    async def keep_ports(self) -> None:
        """Let every later process have the ports that this one has. Raises DaemonFailed when one could not be bound."""
        bound = await self.visible()
        if not self._config.announce:
            check_bound(self._listen, bound)
        self._listen = with_chosen_ports(self._listen, bound)

    async def visible(self) -> list[str]:
        """Full multiaddrs at which p2pd believes that it can be reached."""
        async with asyncio.timeout(self._config.p2pd_answer_s):
            _, visible = await self._p2p._client.identify()
        return full_addresses(visible, self._peer_id)

    async def addresses(self) -> tuple[str, ...]:
        """Those of them that are worth telling others."""
        with contextlib.suppress(*P2PD_ERRORS):  # while p2pd is being started again, the last ones stand
            self._addresses = worth_announcing(await self.visible())
        return self._addresses

    async def dial(self, peer_id: str, addresses: Sequence[str], within_s: float | None = None) -> None:
        """Connect to a peer at these full multiaddrs. Raises one of P2PD_ERRORS.

        p2pd gives up after `within_s`, rounded up, or as long as a stream may take to be opened. It would try for a
        minute, also when nobody waits for it any more. And as long as it tries, whoever wants the peer is told that
        there is a connection: one that it has made meanwhile, though that may be gone.
        """
        connect = p2pd_pb2.ConnectRequest(
            peer=PeerID.from_base58(peer_id).to_bytes(),
            addrs=[Multiaddr(without_peer_id(address)).to_bytes() for address in addresses],
            timeout=ceil(within_s or self._config.open_timeout_s),
        )
        stream, _ = await self._asked(p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=connect))
        stream[1].close()

    async def connected(self) -> list[tuple[str, str]]:
        """The peers that there are connections to, and the full multiaddr of each at its other end. Raises one of
        P2PD_ERRORS."""
        return [_connection(peer.id, address) for peer in await self._peers() for address in peer.addrs]

    async def hang_up(self, peer_id: str) -> None:
        """Close all connections to a peer. Never raises."""
        try:
            async with asyncio.timeout(self._config.rpc_timeout_s):
                await self._p2p._client.disconnect(PeerID.from_base58(peer_id))
        except P2PD_ERRORS as error:
            logger.debug("%s could not be hung up on: %s", peer_id, reason(error))

    async def connections(self) -> list[Connection]:
        """All that there are now, those that are relayed included. Raises one of P2PD_ERRORS."""
        return [Connection(_peer_id(peer.id), _address(peer.addrs[0])) for peer in await self._peers() if peer.addrs]

    async def _peers(self) -> Sequence[Any]:
        """Who is connected, as p2pd writes it."""
        async with asyncio.timeout(self._config.p2pd_answer_s):
            stream, response = await self._asked(p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
        stream[1].close()
        peers: Sequence[Any] = response.peers
        return peers

    async def open_socket(self, peer_id: str, protocol: str) -> StreamSocket:
        """Open a stream to a peer that is connected. Raises one of P2PD_ERRORS."""
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.STREAM_OPEN,
            streamOpen=p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer_id).to_bytes(), proto=[protocol]),
        )
        stream, _ = await self._asked(request)
        return stream

    async def serve(self, protocol: str, accept: Accept) -> None:
        """Have inbound streams of a protocol accepted, by this process and by each later one, instead of by whoever did
        so before."""
        is_known = protocol in self._served
        self.will_serve(protocol, accept)
        if not is_known:  # p2pd takes a protocol once
            await self._register(protocol)

    def will_serve(self, protocol: str, accept: Accept) -> None:
        """Have inbound streams of a protocol accepted by each process that is started from now on."""
        self._served[protocol] = accept

    async def serve_again(self) -> None:
        """Tell a process that has just been started which protocols are served."""
        for protocol in list(self._served):  # more may be served meanwhile: those register themselves
            await self._register(protocol)

    async def _register(self, protocol: str) -> None:
        async def serve(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            address = _address(info.addr.to_bytes())
            stream = InboundStream(info.peer_id.to_base58(), address_group(address), writer.transport.abort)
            self.inbound.enter(stream)
            try:
                if not writer.is_closing():
                    await self._served[protocol](stream.peer_id, address, reader, writer)
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()  # it may be parting from the other end for a while
            finally:
                self.inbound.leave(stream)

        await self._p2p.add_binary_stream_handler(protocol, serve)

    async def _asked(self, request: p2pd_pb2.Request) -> tuple[StreamSocket, p2pd_pb2.Response]:
        """Ask p2pd over a socket of its own, which stays open. Raises one of P2PD_ERRORS."""
        reader, writer = await self._p2p._client.control.daemon_connector.open_connection()
        try:
            response = p2pd_pb2.Response()
            await write_pbmsg(writer, request)
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
        except BaseException:
            writer.close()
            raise
        return (reader, writer), response


@lru_cache(maxsize=4096)
def _connection(peer_id: bytes, address: bytes) -> tuple[str, str]:
    """As text. Most connections are those of the last look."""
    peer = PeerID(peer_id).to_base58()
    return peer, f"{Multiaddr(address)}/p2p/{peer}"


async def attach(daemon: Daemon, sockets: InboundSockets) -> P2P:
    """hivemind's P2P on our own p2pd, with its listening socket in our own folder, which nobody else may enter."""

    class OurP2P(P2P):  # type: ignore[misc]
        _UNIX_SOCKET_PREFIX = f"/unix{Path(daemon.folder)}/"

        def _start_listening(self) -> None:
            control = self._client.control
            control._handler = sockets.closing(control._handler)
            super()._start_listening()

    return await OurP2P.replicate(HivemindMultiaddr(f"/unix{daemon.control_socket}"))


def full_addresses(addresses: Iterable[HivemindMultiaddr], peer_id: str) -> list[str]:
    """hivemind's multiaddrs as text that ends in the peer's id. Its vendored Multiaddr garbles Ed25519 /p2p parts when
    it prints them; PyPI's does not."""
    return [f"{Multiaddr(address.to_bytes())}/p2p/{peer_id}" for address in addresses]


@lru_cache(maxsize=8192)
def _peer_id(packed: bytes) -> str:
    return str(base58.b58encode(packed).decode())


@lru_cache(maxsize=8192)
def _address(packed: bytes) -> str:
    """A multiaddr as text. p2pd makes it, but out of what a relay may have said: what makes no sense is no address."""
    try:
        return str(Multiaddr(packed))
    except (MultiaddrError, ValueError, LookupError, TypeError):
        return "/unknown"


def reason(error: BaseException) -> str:
    """What went wrong in asking p2pd, in one line."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = " ".join(str(error).split())  # p2pd lists what it dialled, a line for each address
    if found := _ANOTHER.search(text):
        return f"another peer is there, {found[1]}"
    return text.removeprefix("Connect failed. msg=") or type(error).__name__
