"""Strangers who attack the directory, over real p2pd and hivemind's own RPCs: nothing of theirs gets in, and nothing
legitimate is lost. The attacker speaks hivemind's protocol without our validator, and says whatever it likes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.routing import DHTID
from hivemind.p2p import P2P, P2PContext, PeerID
from hivemind.proto import dht_pb2
from hivemind.utils import MSGPackSerializer
from multiaddr import Multiaddr

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.directory import entries_for, load_key, model_key, shard_of, validator, worker_key
from p2pnet.errors import JoinError
from p2pnet.identity import Identity
from p2pnet.messages import Load
from p2pnet.network.dht.contact import packed_id
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.hivemind.daemon import Daemon
from p2pnet.network.hivemind.inbound_sockets import InboundSockets
from p2pnet.network.hivemind.network import HivemindNetwork
from p2pnet.network.hivemind.p2pd import attach
from p2pnet.network.interface import StoredValue, key_id
from p2pnet.network.multiaddrs import without_peer_id
from p2pnet.peer import Peer, now_ms
from p2pnet.records import MAX_LIFETIME_MS, SIGNATURE_DOMAIN, CapabilityRecord, LoadRecord, ModelCard, Record, seal

MODEL = "tiny"
RARE = "rare"
DIGEST = "sha256:" + "0" * 64
MINUTE_MS = 60_000


def capability(peer_id: str, address: str, **changes: Any) -> CapabilityRecord:
    now = now_ms()
    record = CapabilityRecord(
        peer_id=peer_id,
        sequence=now,
        issued_ms=now,
        expires_ms=now + 3 * MINUTE_MS,
        models=(ModelCard(MODEL, DIGEST, 4096),),
        addresses=(f"{address}/p2p/{peer_id}",),
    )
    return msgspec.structs.replace(record, **changes)


def sealed_anyway(record: Record, identity: Identity, domain: str = SIGNATURE_DOMAIN) -> bytes:
    """As `seal`, without its checks."""
    payload = msgspec.msgpack.encode(record)
    return msgspec.msgpack.encode({"payload": payload, "signature": identity.sign(domain, payload)})


# ---- the attacker


class HostileProtocol(DHTProtocol):  # type: ignore[misc]
    """hivemind's DHT without our validator. `lie` may answer a find in its place."""

    lie: Callable[[dht_pb2.FindRequest, dht_pb2.FindResponse], dht_pb2.FindResponse] | None = None

    async def rpc_find(self, request: dht_pb2.FindRequest, context: P2PContext) -> dht_pb2.FindResponse:
        honest = await super().rpc_find(request, context)
        return honest if self.lie is None else self.lie(request, honest)


HostileProtocol.__name__ = DHTProtocol.__name__
"""hivemind makes the names of what it calls and serves from this one."""


class Attacker:
    """A peer that sends what it likes."""

    def __init__(self, identity: Identity, p2p: P2P, protocol: HostileProtocol, addresses: tuple[str, ...]) -> None:
        self.identity = identity
        self.p2p = p2p
        self.protocol = protocol
        self.addresses = addresses

    @classmethod
    async def start(cls, folder: Path, stack: AsyncExitStack, node_id: DHTID | None = None) -> Attacker:
        identity = Identity.load_or_create(folder / "attacker.key")
        config = NetworkConfig(folder / "attacker.key", LOOPBACK_LISTEN)
        daemon = await Daemon.start(config, LOOPBACK_LISTEN)
        stack.push_async_callback(daemon.stop)
        p2p = await attach(daemon, InboundSockets())
        stack.push_async_callback(p2p.shutdown)
        protocol = await HostileProtocol.create(
            p2p, node_id or DHTID.generate(), bucket_size=20, depth_modulo=5, num_replicas=5, wait_timeout=3.0
        )
        _, visible = await p2p._client.identify()
        addresses = tuple(f"{Multiaddr(address.to_bytes())}/p2p/{identity.peer_id}" for address in visible)
        return cls(identity, p2p, protocol, addresses)

    async def meet(self, peer: Peer) -> None:
        """Enter the peer's routing table."""
        addresses = [Multiaddr(without_peer_id(address)) for address in await peer.network.addresses()]
        await self.p2p._client.connect(_id(peer), addresses)
        assert await self.protocol.call_ping(_id(peer)) is not None

    async def store(
        self, peer: Peer, key: str, value: bytes | Any, subkey: Any = None, expires_s: float | None = None
    ) -> bool:
        """Ask a peer to store a value; `subkey` None stores a plain one. Returns whether it says that it did."""
        expires_s = (now_ms() + MINUTE_MS) / 1000 if expires_s is None else float(expires_s)
        accepted = await self.protocol.call_store(
            _id(peer), [DHTID.generate(key.encode())], [value], [expires_s], [subkey]
        )
        return bool(accepted and accepted[0])

    async def store_record(self, peer: Peer, key: str, sealed: bytes, subkey: str, expires_ms: int) -> bool:
        return await self.store(peer, key, MSGPackSerializer.dumps(sealed), subkey, expires_ms / 1000)


def _id(peer: Peer) -> PeerID:
    return PeerID.from_base58(peer.identity.peer_id)


def _dht(peer: Peer) -> DhtNode:
    """The inside of an honest peer."""
    assert isinstance(peer.network, HivemindNetwork)
    return peer.network._dht


# ---- the honest


@dataclass
class World:
    """Three honest peers; one of them, the worker, has announced itself."""

    peers: list[Peer]
    record: CapabilityRecord
    sealed: bytes
    attacker: Attacker
    folder: Path
    stack: AsyncExitStack

    @property
    def worker(self) -> Peer:
        return self.peers[1]

    @property
    def keys(self) -> tuple[str, ...]:
        return (model_key(MODEL), worker_key(shard_of(self.record.peer_id)))

    async def offer(self, key: str, sealed: bytes, subkey: str, expires_ms: int) -> list[bool]:
        """What the honest peers say when the attacker asks each of them to store this."""
        return [await self.attacker.store_record(peer, key, sealed, subkey, expires_ms) for peer in self.peers]

    async def newcomer(self, initial: Peer | None = None) -> Peer:
        """A reader that has seen nothing yet."""
        return await _join(self.folder, self.stack, initial or self.peers[0], is_client=True)

    async def assert_nothing_lost(self) -> None:
        """A newcomer finds the worker, as it announced itself, and nobody else; so do those that were there before."""
        reader = await self.newcomer()
        for peer in (reader, *self.peers):
            assert await peer.directory.workers() == (self.record,)
            assert await peer.directory.workers_of(MODEL) == (self.record,)


async def _join(folder: Path, stack: AsyncExitStack, initial: Peer | None, is_client: bool = False) -> Peer:
    addresses = () if initial is None else tuple(a for a in await initial.network.addresses() if "/tcp/" in a)
    key = folder / f"{Identity.generate().peer_id}.key"
    peer = await Peer.join(NetworkConfig(key, LOOPBACK_LISTEN, initial_peers=addresses, is_client=is_client))
    stack.push_async_callback(peer.close)
    return peer


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        first = await _join(tmp_path, stack, None)
        peers = [first, *[await _join(tmp_path, stack, first) for _ in range(2)]]
        worker = peers[1]
        address = without_peer_id((await worker.network.addresses())[0])
        record = capability(worker.identity.peer_id, address)
        sealed = seal(record, worker.identity)
        assert await worker.network.store(entries_for(record, sealed)) == 2
        attacker = await Attacker.start(tmp_path, stack)
        for peer in peers:
            await attacker.meet(peer)
        yield World(peers, record, sealed, attacker, tmp_path, stack)


async def test_the_attacker_can_store_what_is_right(world: World) -> None:
    """The control: its own, honest record is taken by all, so what the others tests send does arrive."""
    identity = world.attacker.identity
    record = capability(identity.peer_id, "/ip4/127.0.0.1/tcp/1")
    sealed = seal(record, identity)
    assert await world.offer(model_key(MODEL), sealed, identity.peer_id, record.expires_ms) == [True] * 3
    found = await (await world.newcomer()).directory.workers_of(MODEL)
    assert set(found) == {record, world.record}


async def test_plain_values_do_not_replace_a_directory(world: World) -> None:
    for key in world.keys:
        for value in (b"", MSGPackSerializer.dumps(b"junk"), MSGPackSerializer.dumps(world.sealed)):
            for expires_s in (None, 1e12):
                taken = [await world.attacker.store(peer, key, value, None, expires_s) for peer in world.peers]
                assert taken == [False] * 3
    await world.assert_nothing_lost()


async def test_bad_records_are_refused(world: World) -> None:
    """Every record that could mislead, offered to every peer under every key it might harm."""
    victim, identity = world.record, world.attacker.identity
    own, own_id = capability(identity.peer_id, "/ip4/127.0.0.1/tcp/1"), identity.peer_id
    renewed = msgspec.structs.replace(victim, sequence=victim.sequence + 1, expires_ms=victim.expires_ms + 1)
    far = own.issued_ms + MAX_LIFETIME_MS + 1
    future = own.issued_ms + MINUTE_MS
    offers = {
        "our record under another's subkey": (sealed_anyway(own, identity), victim.peer_id, own.expires_ms),
        "another's record, changed, signed by us": (
            sealed_anyway(renewed, identity),
            victim.peer_id,
            renewed.expires_ms,
        ),
        "another's record under our subkey": (world.sealed, own_id, victim.expires_ms),
        "another's record with a later expiry": (world.sealed, victim.peer_id, victim.expires_ms + 1000),
        "another's record for ever": (world.sealed, victim.peer_id, 10**15),
        "a replay of the same": (world.sealed, victim.peer_id, victim.expires_ms),
        "signed for another purpose": (sealed_anyway(own, identity, "p2pnet/other/1"), own_id, own.expires_ms),
        "not signed": (msgspec.msgpack.encode({"payload": b"", "signature": b""}), own_id, own.expires_ms),
        "another's addresses": (
            sealed_anyway(msgspec.structs.replace(own, addresses=victim.addresses), identity),
            own_id,
            own.expires_ms,
        ),
        "an expiry too far": (
            sealed_anyway(msgspec.structs.replace(own, expires_ms=far), identity),
            own_id,
            far,
        ),
        "issued in the future": (
            sealed_anyway(msgspec.structs.replace(own, issued_ms=future, expires_ms=future + 1), identity),
            own_id,
            future + 1,
        ),
        "64 KiB of junk": (b"\xc1" * (64 << 10), own_id, own.expires_ms),
        "64 KiB of agent": (
            sealed_anyway(msgspec.structs.replace(own, agent="x" * (64 << 10)), identity),
            own_id,
            own.expires_ms,
        ),
        "nothing": (b"", own_id, own.expires_ms),
    }
    for name, (sealed, subkey, expires_ms) in offers.items():
        for key in world.keys:
            taken = await world.offer(key, sealed, subkey, expires_ms)
            assert taken == [False] * 3, name
    await world.assert_nothing_lost()


async def test_records_do_not_sit_on_foreign_keys(world: World) -> None:
    """A real record, under keys that it does not belong on."""
    foreign = [model_key("other"), worker_key((shard_of(world.record.peer_id) + 1) % 16), "p2pnet/1/else"]
    foreign.append(load_key(shard_of(world.record.peer_id)))
    for key in foreign:
        taken = await world.offer(key, world.sealed, world.record.peer_id, world.record.expires_ms)
        assert taken == [False] * 3
    load = LoadRecord(world.attacker.identity.peer_id, 1, now_ms(), now_ms() + MINUTE_MS, Load(0, 0, 8))
    sealed = seal(load, world.attacker.identity)
    assert await world.offer(model_key(MODEL), sealed, load.peer_id, load.expires_ms) == [False] * 3
    await world.assert_nothing_lost()


async def test_an_old_record_does_not_come_back(world: World) -> None:
    """Given a worker that has withdrawn, when its last announcement is replayed, then it stays withdrawn."""
    now = now_ms()
    offline = msgspec.structs.replace(
        world.record, sequence=now + 1, issued_ms=now, expires_ms=now + 4 * MINUTE_MS, is_online=False
    )
    sealed = seal(offline, world.worker.identity)
    assert await world.worker.network.store(entries_for(offline, sealed)) == 2
    for key in world.keys:
        await world.offer(key, world.sealed, world.record.peer_id, world.record.expires_ms)
    for peer in (await world.newcomer(), *world.peers):
        assert await peer.directory.workers() == ()
        assert await peer.directory.workers_of(MODEL) == ()


async def test_malformed_requests_hurt_nobody(world: World) -> None:
    """What hivemind's own handlers stumble over: the peers go on."""
    key = DHTID.generate(model_key(MODEL).encode()).to_bytes()
    subkey = MSGPackSerializer.dumps(world.record.peer_id)
    requests = [
        dht_pb2.StoreRequest(keys=[key], subkeys=[subkey], values=[], expiration_time=[1.0], in_cache=[False]),
        dht_pb2.StoreRequest(
            keys=[b"short"], subkeys=[subkey], values=[b""], expiration_time=[float("nan")], in_cache=[True]
        ),
        *(
            dht_pb2.StoreRequest(
                keys=[key], subkeys=[tag], values=[value], expiration_time=[expires_s], in_cache=[in_cache]
            )
            for tag in (HostileProtocol.IS_DICTIONARY, HostileProtocol.IS_REGULAR_VALUE, b"\xc1", subkey)
            for value in (b"\xc1" * 100, MSGPackSerializer.dumps({"a": 1}), b"\xc8\x00\x00\x50")
            for expires_s in (float("inf"), float("nan"), -1.0, 1e300)
            for in_cache in (False, True)
        ),
    ]
    for peer in world.peers:
        stub = world.attacker.protocol.get_stub(_id(peer))
        for request in requests:
            try:
                response = await stub.rpc_store(request, timeout=5.0)
            except Exception:  # how hivemind says no is hivemind's business
                continue
            assert not any(response.store_ok)
    await world.assert_nothing_lost()


# ---- peers that lie when they are asked


def _everything(make: Callable[[dht_pb2.FindResult], dht_pb2.FindResult]) -> Callable[..., dht_pb2.FindResponse]:
    def lie(request: dht_pb2.FindRequest, honest: dht_pb2.FindResponse) -> dht_pb2.FindResponse:
        return dht_pb2.FindResponse(results=[make(result) for result in honest.results], peer=honest.peer)

    return lie


def _dictionary(items: list[list[Any]], expires_s: float = 1e18) -> dht_pb2.FindResult:
    packed = msgspec.msgpack.encode(
        msgspec.msgpack.Ext(0x50, msgspec.msgpack.encode([None, expires_s, items])),
    )
    return dht_pb2.FindResult(type=dht_pb2.FOUND_DICTIONARY, value=packed, expiration_time=expires_s)


def _invented_neighbours(model: str, count: int) -> tuple[list[bytes], list[bytes]]:
    """Node and peer ids of nobody, nearest to the model's key."""
    node_ids = [(_key_number(model) ^ number).to_bytes(20, "big") for number in range(1, count + 1)]
    return node_ids, [PeerID.from_base58(Identity.generate().peer_id).to_bytes() for _ in node_ids]


def _key_number(model: str) -> int:
    return int.from_bytes(DHTID.generate(model_key(model).encode()).to_bytes(), "big")


def _junk(result: dht_pb2.FindResult) -> dht_pb2.FindResult:
    bad: list[list[Any]] = [
        [1, 2, 3],
        ["a", b"", float("nan")],
        ["a", b"\xc1", 1e300],
        [None],
        [b"x", b"x", 1.0],
        ["x" * 100, b"\xc4\x00", 1.0],
    ]
    return _dictionary([*bad, ["12D3", MSGPackSerializer.dumps(b"x" * 64), 1e10], *bad])


LIES: dict[str, Callable[[dht_pb2.FindResult], dht_pb2.FindResult]] = {
    "an empty dictionary for ever": lambda _: _dictionary([]),
    "junk entries": _junk,
    "a plain value for ever": lambda _: dht_pb2.FindResult(
        type=dht_pb2.FOUND_REGULAR, value=MSGPackSerializer.dumps(b"junk"), expiration_time=1e18
    ),
    "bytes that are nothing": lambda _: dht_pb2.FindResult(
        type=dht_pb2.FOUND_DICTIONARY, value=b"\xc1" * 1000, expiration_time=1e18
    ),
    "neighbours with ids too long": lambda _: dht_pb2.FindResult(
        type=dht_pb2.NOT_FOUND, nearest_node_ids=[b"\xff" * 32] * 3, nearest_peer_ids=[b"junk"] * 3
    ),
}


async def _liar(world: World, model: str, lie: Callable[..., dht_pb2.FindResponse]) -> None:
    """One more attacker: the node nearest to the model's key, known to all, and it lies."""
    folder = world.folder / "liar"
    folder.mkdir()
    liar = await Attacker.start(folder, world.stack, DHTID(_key_number(model)))
    liar.protocol.lie = lie
    for peer in world.peers:
        await liar.meet(peer)


@pytest.mark.parametrize("name", LIES)
async def test_a_lying_peer_hides_nobody(world: World, name: str) -> None:
    await _liar(world, MODEL, _everything(LIES[name]))
    await world.assert_nothing_lost()


# In a network larger than a routing table a reader does not know who holds a record: others lead it there.


async def _rare_record(world: World) -> CapabilityRecord:
    """The record of another worker, which the last of the honest peers alone holds."""
    identity = Identity.generate()
    address = without_peer_id((await world.peers[2].network.addresses())[0])
    record = capability(identity.peer_id, address, models=(ModelCard(RARE, DIGEST, 4096),))
    sealed = seal(record, identity)
    stored = StoredValue(key_id(model_key(RARE)), record.peer_id, sealed, record.expires_ms)
    assert _dht(world.peers[2])._storage.store(stored, "elsewhere", now_ms())
    return record


async def _distant_reader(world: World) -> Peer:
    """A reader that knows the first of the honest peers, which knows the second, which knows the third."""
    first, second, third = world.peers
    reader = await world.newcomer(first)
    for peer, stranger in ((reader, second), (reader, third), (first, third)):
        _dht(peer)._table.remove(_dht(stranger).own_id)
    return reader


async def test_a_record_is_found_through_others(world: World) -> None:
    """The control: without a liar, the distant reader finds it."""
    record = await _rare_record(world)
    reader = await _distant_reader(world)
    assert await reader.directory.workers_of(RARE) == (record,)


async def test_invented_neighbours_hide_nobody(world: World) -> None:
    """The liar names more peers than a search considers, all nearer to the key than anybody else. None exists."""
    record = await _rare_record(world)
    node_ids, peer_ids = _invented_neighbours(RARE, 40)
    lie = dht_pb2.FindResult(type=dht_pb2.NOT_FOUND, nearest_node_ids=node_ids, nearest_peer_ids=peer_ids)
    await _liar(world, RARE, _everything(lambda _: lie))
    reader = await _distant_reader(world)
    assert await reader.directory.workers_of(RARE) == (record,)


async def test_borrowed_node_ids_hide_nobody(world: World) -> None:
    """The liar says that the holder's node id belongs to somebody else, who does not exist."""
    record = await _rare_record(world)
    lie = dht_pb2.FindResult(
        type=dht_pb2.NOT_FOUND,
        nearest_node_ids=[packed_id(_dht(world.peers[2]).own_id)],
        nearest_peer_ids=[PeerID.from_base58(Identity.generate().peer_id).to_bytes()],
    )
    await _liar(world, RARE, _everything(lambda _: lie))
    reader = await _distant_reader(world)
    assert await reader.directory.workers_of(RARE) == (record,)


async def test_stolen_node_ids_hide_nobody(world: World) -> None:
    """The attacker presents itself to the others under the holder's node id, and knows nothing when it is asked."""
    record = await _rare_record(world)
    attacker = world.attacker.protocol
    attacker.lie = _everything(lambda _: dht_pb2.FindResult(type=dht_pb2.NOT_FOUND))
    attacker.node_info = dht_pb2.NodeInfo(node_id=packed_id(_dht(world.peers[2]).own_id))
    for peer in world.peers[:2]:
        await attacker.call_ping(_id(peer))
    reader = await _distant_reader(world)
    assert await reader.directory.workers_of(RARE) == (record,)


# ---- clocks


@pytest.mark.parametrize("skew_ms", [10_000, -10_000], ids=["fast", "slow"])
async def test_a_clock_that_is_off_is_named(tmp_path: Path, skew_ms: int) -> None:
    async with AsyncExitStack() as stack:
        first = await _join(tmp_path, stack, None)

        def wrong_ms() -> int:
            return now_ms() + skew_ms

        config = NetworkConfig(tmp_path / "late.key", LOOPBACK_LISTEN, initial_peers=await first.network.addresses())
        identity = Identity.load_or_create(config.identity_file)
        with pytest.raises(JoinError, match="clock differs by 10 seconds") as refused:
            await HivemindNetwork.start(config, identity, validator(wrong_ms), wrong_ms)
        assert refused.value.fix
        assert first.identity.peer_id in refused.value.message
