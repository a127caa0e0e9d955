"""The Network over hivemind's DHT and p2pd: the only file that imports hivemind, and it costs 1.3 s to import.

Owns joining, the DHT node, streams through p2pd's control socket, and the supervision of p2pd: when it dies, it is
started again with the same identity and ports, and the peer joins again. Knows nothing of records or models.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.dht.storage import DHTLocalStorage
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.p2p.p2p_daemon_bindings.control import P2PDaemonError, P2PHandlerError
from hivemind.p2p.p2p_daemon_bindings.datastructures import StreamInfo
from hivemind.p2p.p2p_daemon_bindings.utils import raise_if_failed, read_pbmsg_safe, write_pbmsg
from hivemind.proto import dht_pb2, p2pd_pb2
from hivemind.utils.multiaddr import Multiaddr as HivemindMultiaddr
from multiaddr import Multiaddr

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import DaemonFailed, JoinError, P2PNetError, PeerLost, PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.daemon import Daemon
from p2pnet.network.hivemind.dht_values import unpack_subkey, unpack_value, values_in
from p2pnet.network.hivemind.p2pd_stream import P2pdStream, RawStream
from p2pnet.network.interface import Clock, Entry, Findings, Meeting, StoredValue, Stream, StreamHandler, Validator
from p2pnet.network.libp2p.relay_limits import HOP_PROTOCOL, GrantedLimits, granted_limits
from p2pnet.network.lookup import BEAM, Lookup, PeerReply
from p2pnet.network.multiaddrs import is_relayed, parts_of, peer_id_of, without_peer_id, worth_announcing

logger = logging.getLogger(__name__)

MAINTENANCE_INTERVAL_S = 1.0
"""How often our addresses are looked at: a relay reservation shows up in them within this time."""
REJOIN_INTERVAL_S = 5.0
"""How often initial peers that are not in our routing table are asked again: a bootstrap that returns is found soon."""
JOIN_RETRIES = 3
JOIN_RETRY_PAUSE_S = 2.0
"""When no initial peer answers at the start, they are asked again: one that is just starting needs some seconds. libp2p
dials an address that failed again after 5 s, and not before."""
RESTART_PAUSE_S = (0.1, 0.5, 2.0, 10.0)
"""Before each try to start a p2pd that has died; the last one repeats."""
MAX_CLOCK_SKEW_S = 3.0
"""hivemind's own limit: beyond it peers disagree on what has expired."""
MAX_STORED_KEYS = 1 << 16
"""How many keys a peer stores for others, the soonest to expire leaving first: strangers can invent keys for free."""
ROUTING_DEPTH_MODULO = 5
"""hivemind's default: how finely the far half of the id space is split into buckets."""
MAX_RELAY_STARTS = 10
"""Tries to start a p2pd that relays with our limits; one in twenty failed on a busy machine."""
RELAY_POLL_S = 0.1
RELAY_WAIT_S = 15.0
"""How long a peer behind NAT waits for its first reservation before it goes on without; it usually takes 0.4 s."""
MAX_VALUES_PER_KEY = 900
"""Values of the largest size, 4 KiB, that fit into one reply of the DHT, 4 MiB, with their subkeys and expiries."""

LEAVING_S = 5.0
"""How long a network that closes waits for its streams to part: their last bytes may still be on their way."""

_REGULAR_ERRORS = (P2PDaemonError, P2PHandlerError, OSError, EOFError, TimeoutError)
"""What asking a peer through p2pd raises when the peer, or p2pd, is not there."""


class HivemindNetwork:
    """See `network.Network`. Make one with `start`."""

    def __init__(self, config: NetworkConfig, identity: Identity, validator: Validator, now_ms: Clock) -> None:
        self._config = config
        self._now_ms = now_ms
        self._identity = identity
        self._validator = validator
        self._listen = config.listen
        self._handlers: dict[str, StreamHandler] = {}
        self._connections = Connections(self._dial, self._disconnect)
        self._changed = asyncio.Event()
        self._addresses: tuple[str, ...] = ()
        self._node_id = _node_id_of(PeerID.from_base58(identity.peer_id))
        self._daemon: Daemon
        self._p2p: P2P
        self._node: DHTNode
        self._tasks: list[asyncio.Task[None]] = []
        self._streams: set[RawStream] = set()
        self._parting: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls, config: NetworkConfig, identity: Identity, validator: Validator, now_ms: Clock
    ) -> HivemindNetwork:
        """Start p2pd and join. Raises DaemonFailed, or JoinError when initial peers are named and none is reachable."""
        self = cls(config, identity, validator, now_ms)
        self._connections.learn(config.initial_peers)
        await self._start_daemon()
        try:
            await self._check_listening()
            await self._join_or_explain()
            await self._wait_for_relay()
            await self.addresses()
        except BaseException:
            await self._stop_daemon()
            raise
        self._tasks = [asyncio.create_task(self._supervise()), asyncio.create_task(self._maintain())]
        return self

    @property
    def peer_id(self) -> str:
        return self._identity.peer_id

    @property
    def neighbours(self) -> int:
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    @property
    def daemon_pid(self) -> int:
        """The process id of p2pd, for those who watch it."""
        return self._daemon.pid

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    async def addresses(self) -> tuple[str, ...]:
        with contextlib.suppress(*_REGULAR_ERRORS):  # while p2pd is being started again, the last ones stand
            self._addresses = worth_announcing(f"{address}/p2p/{self.peer_id}" for address in await self._visible())
        return self._addresses

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler
        await self._register(protocol, handler)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        raw = await self.open_raw_stream(peer_id, protocol, addresses)
        return P2pdStream(raw, is_opener=True, parting=self._parting)

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> RawStream:
        has_moved = self._connections.has_moved(peer_id, addresses) and not self._is_in_use(peer_id)
        self._connections.learn(addresses)
        try:
            async with asyncio.timeout(self._config.open_timeout_s):
                if has_moved:
                    await self._connections.hang_up(peer_id)
                if peer_id in self._connections:
                    # The usual case costs one round trip; a connection that has gone is noticed and dialled again.
                    with contextlib.suppress(*_REGULAR_ERRORS):
                        return await self._open(peer_id, protocol)
                await self._connections.connect(peer_id)
                return await self._open(peer_id, protocol)
        except _REGULAR_ERRORS as error:
            self._connections.forget(peer_id)
            raise PeerUnreachable(f"no {protocol} stream to {peer_id}: {_reason(error)}") from error

    async def hang_up(self, peer_id: str) -> None:
        await self._connections.hang_up(peer_id)

    async def store(self, entries: Sequence[Entry]) -> int:
        results = await self._node.store_many(
            keys=[entry.key.encode() for entry in entries],
            values=[entry.value for entry in entries],
            expiration_time=[entry.expires_ms / 1000 for entry in entries],
            subkeys=[self.peer_id] * len(entries),
            exclude_self=self._config.is_dht_client,
        )
        return sum(map(bool, results.values()))

    async def fetch(self, keys: Sequence[str]) -> Findings:
        ids = {DHTID.generate(key.encode()): key for key in keys}
        nearest = self._node.protocol.routing_table.get_nearest_neighbors
        known = dict(node for id_ in ids for node in nearest(id_, BEAM, exclude=self._node_id))
        lookup: Lookup[PeerID, StoredValue] = Lookup(list(ids), known, self._node_id)
        await lookup.run(self._ask)
        return {key: [*self._stored_here(id_), *lookup.values[id_]] for id_, key in ids.items()}

    async def wait_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._parting:
            await asyncio.wait(self._parting, timeout=LEAVING_S)
        await self._stop_daemon()

    async def _visible(self) -> list[str]:
        _, visible = await self._p2p._client.identify()
        # hivemind's vendored Multiaddr garbles Ed25519 /p2p parts when it prints them; PyPI's does not.
        return [str(Multiaddr(address.to_bytes())) for address in visible]

    # ---- p2pd: start, supervise, stop

    async def _start_daemon(self, storage: Any = None) -> None:
        await (self._start_relay() if self._config.is_bootstrap else self._start_p2pd())
        try:
            for protocol, handler in self._handlers.items():
                await self._register(protocol, handler)
            self._node = await DHTNode.create(
                p2p=self._p2p,
                node_id=self._node_id,
                client_mode=self._config.is_dht_client,
                record_validator=_HivemindValidator(self._validator),
                wait_timeout=self._config.rpc_timeout_s,
                cache_locally=False,  # what we read we check and keep ourselves
                cache_nearest=0,
                cache_on_store=False,
            )
        except BaseException:
            await self._end_p2pd()
            raise
        protocol = self._node.protocol
        protocol.routing_table = _RoutingTable(self._node_id, protocol.bucket_size, ROUTING_DEPTH_MODULO)
        protocol.storage = storage or _BoundedStorage()
        protocol.cache = _NoCache()

    async def _start_p2pd(self) -> None:
        self._daemon = await Daemon.start(self._config, self._listen, relays=self._config.initial_peers)
        try:
            self._p2p = await _attach(self._daemon)
        except BaseException:
            await self._daemon.stop()
            raise

    async def _start_relay(self) -> None:
        """Start a p2pd that relays with our limits: a race in it decides between ours and libp2p's, see `daemon`."""
        for _ in range(MAX_RELAY_STARTS):
            await self._start_p2pd()
            try:
                granted = await _limits_of([f"{address}/p2p/{self.peer_id}" for address in await self._visible()])
                if granted is not None and granted.data_bytes == self._config.relay.data_bytes:
                    return
            except BaseException:
                await self._end_p2pd()
                raise
            await self._end_p2pd()
        raise DaemonFailed("p2pd does not relay with our limits.", "Try again on a less busy machine.")

    async def _end_p2pd(self) -> None:
        await self._p2p.shutdown()
        await self._daemon.stop()

    async def _stop_daemon(self) -> None:
        self._node.is_alive = False
        await self._end_p2pd()

    async def _supervise(self) -> None:
        """Start p2pd again whenever it dies."""
        while True:
            status = await self._daemon.wait()
            logger.warning("p2pd has died (exit status %s); starting it again", status)
            storage = self._node.protocol.storage
            await self._stop_daemon()
            self._connections.forget_all()
            await self._restart(storage)
            await self._rejoin()
            logger.info("p2pd runs again, as the same peer")
            self._changed.set()

    async def _restart(self, storage: Any) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(RESTART_PAUSE_S[min(attempt, len(RESTART_PAUSE_S) - 1)])
            attempt += 1
            try:
                return await self._start_daemon(storage)
            except (P2PNetError, *_REGULAR_ERRORS) as error:
                logger.error("p2pd does not start: %s", error)

    async def _check_listening(self) -> None:
        """p2pd goes on when one of several addresses cannot be bound; we do not. Ports once chosen are kept."""
        bound = await self._visible()
        wanted = [_transport(address) for address in self._listen]
        missing = [port for port in wanted if port[1] != "0" and port not in map(_transport, bound)]
        if missing and not self._config.announce:
            raise DaemonFailed(
                f"Port {missing[0][1]} ({missing[0][0]}) is in use.", "Name another address with --listen."
            )
        ports = dict(_transport(address) for address in bound)
        self._listen = tuple(_with_port(address, ports) for address in self._listen)

    async def _wait_for_relay(self) -> None:
        """A peer behind NAT can be reached once a relay has given it a place: not before that is it ready."""
        if not self._config.is_behind_nat:
            return
        deadline_s = asyncio.get_running_loop().time() + RELAY_WAIT_S
        while not any(map(is_relayed, await self._visible())):
            if asyncio.get_running_loop().time() > deadline_s:
                logger.warning("none of the initial peers relays for us: nobody can reach this peer yet")
                return
            await asyncio.sleep(RELAY_POLL_S)

    # ---- joining

    async def _join_or_explain(self) -> None:
        initial = self._config.initial_peers
        if not initial:
            return
        problems = await self._join(initial)
        for _ in range(JOIN_RETRIES):  # whoever is started together with us may need a moment
            if self.neighbours or len(problems) < len(initial):
                break
            await asyncio.sleep(JOIN_RETRY_PAUSE_S)
            problems = await self._join(initial)
        if self.neighbours == 0 and len(problems) == len(initial):
            skewed = next((problem for problem in problems if isinstance(problem, JoinError)), None)
            tried = "; ".join(f"{address} ({problem})" for address, problem in zip(initial, problems, strict=True))
            raise skewed or JoinError(
                f"No peer could be reached. Tried {tried}.",
                "Check the address and the network, name another peer with --initial-peers, "
                "or start a network of your own with `p2pnet bootstrap`.",
            )

    async def _join(self, addresses: Sequence[str]) -> list[Exception]:
        """Meet these peers, then our own neighbourhood in the DHT. Returns what went wrong, per unreachable peer."""
        results = await asyncio.gather(*(self._join_through(address) for address in addresses), return_exceptions=True)
        if self.neighbours:
            await self._node.find_nearest_nodes([self._node_id])
        return [result for result in results if isinstance(result, Exception)]

    async def _join_through(self, address: str) -> None:
        """Meet a peer whose clock agrees with ours."""
        peer_id = peer_id_of(address)
        if peer_id == self.peer_id:
            return
        ahead_s = (await self.meet(address)).clock_ahead_s
        if ahead_s is not None and abs(ahead_s) > MAX_CLOCK_SKEW_S:
            raise JoinError(
                f"This machine's clock differs by {abs(ahead_s):.0f} seconds from that of {peer_id}.",
                "Set the clock (for instance: timedatectl set-ntp true), or join through another peer.",
            )

    async def meet(self, address: str) -> Meeting:
        """Connect to a peer, compare clocks, and enter each other's routing tables where they agree."""
        peer_id = peer_id_of(address)
        assert peer_id is not None, "checked by the command line"
        self._connections.learn([address])
        protocol = self._node.protocol
        peer = PeerID.from_base58(peer_id)
        began_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self._config.join_timeout_s):
                await self._connections.connect(peer_id)
                asked_s = self._now_ms() / 1000
                ping = dht_pb2.PingRequest(peer=protocol.node_info, validate=False)
                pong = await protocol.get_stub(peer).rpc_ping(ping, timeout=self._config.join_timeout_s)
        except _REGULAR_ERRORS as error:
            raise PeerUnreachable(_reason(error)) from error
        took_s = asyncio.get_running_loop().time() - began_s
        if not pong.dht_time:
            ahead_s = None
        else:  # what the answer's way may have taken is no difference
            ahead_s = max(0.0, pong.dht_time - self._now_ms() / 1000) - max(0.0, asked_s - pong.dht_time)
        if pong.peer.node_id and abs(ahead_s or 0.0) <= MAX_CLOCK_SKEW_S:
            await protocol.update_routing_table(DHTID.from_bytes(pong.peer.node_id), peer, responded=True)
        return Meeting(took_s, ahead_s)

    async def _rejoin(self) -> None:
        """Meet initial peers that we lost sight of; when nobody is left, any peer we have known."""
        table = self._node.protocol.routing_table
        seen = {peer.to_base58() for peer in table.uid_to_peer_id.values()}
        missing = [address for address in self._config.initial_peers if peer_id_of(address) not in seen]
        if not seen:
            missing += self._connections.newest_addresses(8)
        if missing:
            await self._join(list(dict.fromkeys(missing)))

    async def _maintain(self) -> None:
        """Notice new addresses of ours, and initial peers that have come back."""
        loop = asyncio.get_running_loop()
        last_rejoin_s = loop.time()
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL_S)
            try:
                before = self._addresses
                if await self.addresses() != before:
                    self._changed.set()
                if loop.time() - last_rejoin_s >= REJOIN_INTERVAL_S:
                    await self._remember_neighbours()
                    size_before = self.neighbours
                    await self._rejoin()
                    if not size_before and self.neighbours:
                        self._changed.set()
                    last_rejoin_s = loop.time()
            except _REGULAR_ERRORS as error:
                logger.debug("p2pd did not answer: %s", error)

    async def _remember_neighbours(self) -> None:
        """Keep the addresses of DHT peers that we are connected to: the way back when p2pd dies and no initial peer is
        left."""
        neighbours = self._node.protocol.routing_table.peer_id_to_uid
        for peer in await self._p2p.list_peers():
            if peer.peer_id in neighbours and not self._connections.knows(peer.peer_id.to_base58()):
                plain = (str(Multiaddr(address.to_bytes())) for address in peer.addrs)
                self._connections.learn([f"{address}/p2p/{peer.peer_id.to_base58()}" for address in plain])

    # ---- the DHT, entry by entry

    def _stored_here(self, id_: DHTID) -> list[StoredValue]:
        item = self._node.protocol.storage.get(id_)
        if item is None:
            return []
        return [
            stored
            for subkey, (packed, expires_s) in item.value.items()
            if (stored := unpack_value(id_.to_bytes(), subkey, packed, expires_s)) is not None
        ]

    async def _ask(self, peer: PeerID, keys: Sequence[int]) -> PeerReply[PeerID, StoredValue] | None:
        """Ask one peer for keys. hivemind's own reading is not used: it lets one bad entry hide a whole dictionary,
        one reply with a far-future expiry end the search, and invented peers push out the real ones."""
        node, protocol = self._node, self._node.protocol
        if peer in node.blacklist:
            return None
        try:
            if self._connections.knows(peer.to_base58()):
                await self._connections.connect(peer.to_base58())
            # A key a question: each may fill a reply.
            results = dict(await asyncio.gather(*(self._find(peer, DHTID(key)) for key in keys)))
            reply: PeerReply[PeerID, StoredValue] = PeerReply(
                values={id_: self._values_in(id_, result) for id_, result in results.items()},
                nearest={id_: _nearest(result) for id_, result in results.items()},
            )
        except (*_REGULAR_ERRORS, ValueError, AssertionError) as error:  # the latter two: malformed node ids
            logger.debug("%s did not answer: %s", peer, error)
            self._connections.forget(peer.to_base58())
            node.blacklist.register_failure(peer)
            await protocol.update_routing_table(protocol.routing_table.get(peer_id=peer), peer, responded=False)
            return None
        node.blacklist.register_success(peer)
        return reply

    async def _find(self, peer: PeerID, id_: DHTID) -> tuple[DHTID, dht_pb2.FindResult]:
        protocol = self._node.protocol
        request = dht_pb2.FindRequest(keys=[id_.to_bytes()], peer=protocol.node_info)
        response = await protocol.get_stub(peer).rpc_find(request, timeout=self._config.rpc_timeout_s)
        (result,) = response.results
        return id_, result

    def _values_in(self, id_: DHTID, result: dht_pb2.FindResult) -> list[StoredValue]:
        if result.type != dht_pb2.FOUND_DICTIONARY:
            return []
        return list(filter(self._validator, values_in(id_.to_bytes(), result.value)))

    # ---- connections and streams, through p2pd's control socket

    async def _dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        plain = [Multiaddr(without_peer_id(address)) for address in addresses]
        await self._p2p._client.connect(PeerID.from_base58(peer_id), plain)

    async def _disconnect(self, peer_id: str) -> None:
        try:
            async with asyncio.timeout(self._config.rpc_timeout_s):
                await self._p2p._client.disconnect(PeerID.from_base58(peer_id))
        except _REGULAR_ERRORS as error:
            logger.debug("%s could not be hung up on: %s", peer_id, _reason(error))

    def _is_in_use(self, peer_id: str) -> bool:
        """Whether a stream of ours would be lost with the connection: those who wait for it will notice by themselves
        when nothing comes."""
        return any(stream.peer_id == peer_id and stream.is_in_use for stream in self._streams)

    async def _open(self, peer_id: str, protocol: str) -> RawStream:
        request = p2pd_pb2.Request(
            type=p2pd_pb2.Request.STREAM_OPEN,
            streamOpen=p2pd_pb2.StreamOpenRequest(peer=PeerID.from_base58(peer_id).to_bytes(), proto=[protocol]),
        )
        reader, writer = await self._p2p._client.control.daemon_connector.open_connection()
        try:
            response = p2pd_pb2.Response()
            await write_pbmsg(writer, request)
            await read_pbmsg_safe(reader, response)
            raise_if_failed(response)
        except BaseException:
            writer.close()
            self._connections.forget(peer_id)
            raise
        return RawStream(peer_id, reader, writer, self._streams)

    async def _register(self, protocol: str, handler: StreamHandler) -> None:
        async def serve(info: StreamInfo, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            raw = RawStream(info.peer_id.to_base58(), reader, writer, self._streams)
            stream = P2pdStream(raw, is_opener=False, parting=self._parting)
            try:
                await handler(stream)
            except BaseException:
                stream.drop()
                raise
            stream.close()

        await self._p2p.add_binary_stream_handler(protocol, serve)


class _HivemindValidator(RecordValidatorBase):  # type: ignore[misc]
    """Our Validator in hivemind's terms. A plain value, whose subkey is nil, is never acceptable."""

    def __init__(self, is_acceptable: Validator) -> None:
        self._is_acceptable = is_acceptable

    def validate(self, record: DHTRecord) -> bool:
        subkey = unpack_subkey(record.subkey)
        if subkey is None:
            return False
        stored = unpack_value(record.key, subkey, record.value, record.expiration_time)
        return stored is not None and self._is_acceptable(stored)


class _RoutingTable(RoutingTable):  # type: ignore[misc]
    """Takes a node under the id that follows from its peer id, and no other: nobody can sit in another's place, nor
    choose a place near a key without looking for a key pair that leads there."""

    def add_or_update_node(self, node_id: DHTID, peer_id: PeerID) -> tuple[DHTID, PeerID] | None:
        if node_id != _node_id_of(peer_id):
            return None
        return super().add_or_update_node(node_id, peer_id)  # type: ignore[no-any-return]


class _BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
    """What this peer stores for others. A dictionary that has grown over a reply's size could not be read any more."""

    def __init__(self) -> None:
        super().__init__(maxsize=MAX_STORED_KEYS)

    def store_subkey(self, key: DHTID, subkey: str, value: bytes, expiration_time: float) -> bool:
        item = self.get(key)
        if item is not None and len(item.value.data) >= MAX_VALUES_PER_KEY and subkey not in item.value.data:
            item.value.get(subkey)  # drops what has expired
            if len(item.value.data) >= MAX_VALUES_PER_KEY:
                return False
        return bool(super().store_subkey(key, subkey, value, expiration_time))


class _NoCache(DHTLocalStorage):  # type: ignore[misc]
    """hivemind answers from its cache when that expires later, and lets strangers write to it: one value of theirs
    would hide a whole dictionary. Nothing of ours uses it."""

    def store(self, *arguments: object, **more: object) -> bool:
        return False

    def store_subkey(self, *arguments: object) -> bool:
        return False


def _node_id_of(peer_id: PeerID) -> DHTID:
    return DHTID.generate(peer_id.to_bytes())


def _nearest(result: dht_pb2.FindResult) -> dict[DHTID, PeerID]:
    """The neighbours that a peer names, as far as their two ids belong together."""
    ids = map(DHTID.from_bytes, result.nearest_node_ids)
    pairs = zip(ids, map(PeerID, result.nearest_peer_ids), strict=False)
    return {node_id: peer for node_id, peer in pairs if node_id == _node_id_of(peer)}


async def _limits_of(addresses: Sequence[str]) -> GrantedLimits | None:
    """Ask a relay for a reservation, as any peer would, from a p2pd that lives for this one question."""
    with TemporaryDirectory(prefix="p2pnet-") as folder:
        config = NetworkConfig(Path(folder) / "probe.key", listen=LOOPBACK_LISTEN, is_client=True)
        probe = HivemindNetwork(config, Identity.load_or_create(config.identity_file), lambda _: False, lambda: 0)
        await probe._start_p2pd()
        try:
            peer_id = peer_id_of(addresses[0])
            assert peer_id is not None
            stream = await probe.open_raw_stream(peer_id, HOP_PROTOCOL, addresses)
            try:
                async with asyncio.timeout(config.open_timeout_s):
                    return await granted_limits(stream)
            finally:
                stream.close()
        except (*_REGULAR_ERRORS, PeerLost, PeerUnreachable) as error:
            logger.debug("the relay did not answer: %s", error)
            return None
        finally:
            await probe._end_p2pd()


async def _attach(daemon: Daemon) -> P2P:
    """hivemind's P2P on our own p2pd, with its listening socket in our own folder, which nobody else may enter."""

    class OurP2P(P2P):  # type: ignore[misc]
        _UNIX_SOCKET_PREFIX = f"/unix{Path(daemon.folder)}/"

    return await OurP2P.replicate(HivemindMultiaddr(f"/unix{daemon.control_socket}"))


def _transport(address: str) -> tuple[str, str]:
    """('tcp' or 'udp', port) of a listen address."""
    return next(((name, value) for name, value in parts_of(address) if name in ("tcp", "udp")), ("", "0"))


def _with_port(address: str, ports: dict[str, str]) -> str:
    name, port = _transport(address)
    return address.replace(f"/{name}/0", f"/{name}/{ports.get(name, port)}", 1) if port == "0" else address


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = " ".join(str(error).split())  # p2pd lists what it dialled, a line for each address
    return text.removeprefix("Connect failed. msg=") or type(error).__name__
