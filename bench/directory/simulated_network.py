"""Peers of a simulated network: the real node of the DHT each, over calls and streams that take a round trip.

Calls skip p2pd and sockets, nothing else: each is the bytes that it would be, and is counted at both ends. Who has gone
without a word lets callers wait, as a machine that was switched off does.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from p2pnet.directory import validator
from p2pnet.errors import PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.network.dht.call_limits import Caller, CallLimits
from p2pnet.network.dht.calls import STORE, packed_answer, packed_error, question_in
from p2pnet.network.dht.contact import peer_bytes
from p2pnet.network.dht.messages import MAX_RESPONSE_BYTES, Malformed, Sender
from p2pnet.network.dht.node import DhtNode
from p2pnet.network.interface import Entry, Findings, Stream
from p2pnet.network.libp2p.protobuf import read_varint
from p2pnet.network.memory import MemoryNetwork, MemoryWorld

BEGAN_MS = 1_800_000_000_000
NODES_SHARE = 0.2
"""Of all peers those that others can dial, and which therefore store: of volunteers at home about one in five."""
ROUND_TRIP_S = (0.02, 0.2)
"""Between any two peers: some in one city, some around the world."""
DIAL_S = 5.0
"""How long a dial of who is gone takes; callers give up before that."""
CALL_TIMEOUT_S = 3.0
KNOWN_AT_START = 400
"""Nodes that a peer has met by the time a run begins, beside those nearest to it."""
VERIFY_S = 0.00019
"""One check of a signature. The process checks each record once for all of its peers; each would on its own machine."""


@dataclass
class Counts:
    """What one peer has asked, and been asked."""

    calls: int = 0
    bytes: int = 0
    streams: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    values_stored: int = 0
    answered_bytes: int = 0
    answering_s: float = 0.0

    def clear(self) -> None:
        self.calls = self.bytes = self.streams = self.values_stored = self.answered_bytes = 0
        self.answering_s = 0.0
        self.asked.clear()


class SimulatedWorld:
    """All peers, and the clock that they share."""

    def __init__(self, seed: int, clock: asyncio.AbstractEventLoop) -> None:
        self.rng = random.Random(seed)
        self.now_s = clock.time
        self.memory = MemoryWorld(validator(self.now_ms))
        self.peers: dict[str, SimulatedPeer] = {}
        self._nodes: list[SimulatedPeer] = []
        self._made = 0

    def now_ms(self) -> int:
        return BEGAN_MS + round(self.now_s() * 1000)

    def join(self, is_client: bool | None = None) -> SimulatedPeer:
        """A new peer, which nobody knows yet. Whether it only asks falls to lot."""
        self._made += 1
        identity = Identity.from_seed(hashlib.sha256(f"{self._made}".encode()).digest())
        if is_client is None:
            is_client = self.rng.random() >= NODES_SHARE
        peer = SimulatedPeer(self, identity, is_client)
        self.peers[peer.peer_id] = peer
        if not is_client:
            self._nodes.append(peer)
        return peer

    def introduce(self, peer: SimulatedPeer) -> None:
        """As after it has joined and looked around: it knows nodes everywhere, and all near it."""
        alive = [node for node in self._nodes if node.peer_id in self.peers and node is not peer]
        some = self.rng.sample(alive, min(len(alive), KNOWN_AT_START))
        own_id = peer.node.own_id
        near = heapq.nsmallest(20, alive, key=lambda node: node.node.own_id ^ own_id)
        for node in {each.peer_id: each for each in (*some, *near)}.values():
            peer.node.met(node.peer_id, Sender(node.node.own_id))
            if node in near and not peer.node.is_client:
                node.node.met(peer.peer_id, Sender(peer.node.own_id))

    @property
    def nodes(self) -> list[SimulatedPeer]:
        """Those that store."""
        return [node for node in self._nodes if node.peer_id in self.peers]


class SimulatedPeer(MemoryNetwork):
    """See `interface.Network`: streams are those of the memory network, the DHT is the real one."""

    def __init__(self, world: SimulatedWorld, identity: Identity, is_client: bool) -> None:
        super().__init__(world.memory, identity.peer_id)
        world.memory.peers[identity.peer_id] = self
        self.identity = identity
        self.counts = Counts()
        self._simulated = world
        self._limits = CallLimits()
        self.node = DhtNode(
            identity.peer_id,
            is_client=is_client,
            is_acceptable=world.memory.is_acceptable,
            now_ms=world.now_ms,
            open_stream=self._open_call,
            own_addresses=lambda: (),
            timeout_s=CALL_TIMEOUT_S,
            now_s=world.now_s,
        )

    async def record_addresses(self) -> tuple[str, ...]:
        """Each from a network of its own."""
        a, b = peer_bytes(self.peer_id)[-2:]
        return (f"/ip4/{a % 100 + 20}.{b}.7.7/tcp/31337/p2p/{self.peer_id}",)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self.node.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self.node.fetch(keys)

    def held(self, key: str) -> int:
        return self.node.held(key)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        self.counts.streams += 1
        await self._dial(peer_id)
        return _CountedStream(await super().open_stream(peer_id, protocol, addresses), self.counts)

    async def vanish(self) -> None:
        """Without a word, streams and all."""
        self._simulated.peers.pop(self.peer_id, None)
        await self.kill()
        await self.node.stop()

    def answer(self, caller: str, protocol: str, message: bytes) -> bytes:
        """One call of the DHT, as `serving` has it answered."""
        began_s = time.process_time()
        who, now_s = Caller(caller, caller[-6:]), self._simulated.now_s()
        if not self._limits.enter(who, now_s):
            return b""
        self._limits.leave(who)
        call_id, question = question_in(message)
        try:
            answered = packed_answer(call_id, self.node.methods()[protocol](who, question))
            if len(answered) > MAX_RESPONSE_BYTES:
                raise Malformed("too long")
        except Malformed as error:
            answered = packed_error(call_id, str(error))
        counts = self.counts
        counts.asked[protocol] += 1
        counts.answered_bytes += len(answered)
        counts.answering_s += time.process_time() - began_s
        if protocol == STORE:
            counts.values_stored += len(question) // 400
        return answered

    async def _dial(self, peer_id: str) -> None:
        if peer_id not in self._simulated.peers:
            await asyncio.sleep(DIAL_S)
            raise PeerUnreachable(f"nobody answers for {peer_id}")

    async def _open_call(self, peer_id: str, protocol: str, addresses: Sequence[str]) -> _Call:
        self.counts.calls += 1
        await self._dial(peer_id)
        peer = self._simulated.peers[peer_id]
        if protocol not in peer.node.methods():
            raise PeerUnreachable(f"{peer_id} only asks")
        return _Call(self, peer, protocol, self._simulated.rng.uniform(*ROUND_TRIP_S))


class _Call:
    """One call, as the caller's end of its stream: what is written is answered."""

    address = "/ip4/192.0.2.1/tcp/1"

    def __init__(self, caller: SimulatedPeer, callee: SimulatedPeer, protocol: str, takes_s: float) -> None:
        self._caller = caller
        self._callee = callee
        self._protocol = protocol
        self._takes_s = takes_s
        self._answer: bytes | None = None

    @property
    def peer_id(self) -> str:
        return self._callee.peer_id

    async def write(self, data: bytes) -> None:
        if self._answer is None:
            self._caller.counts.bytes += len(data)
            _, begin = read_varint(data, 0)
            self._answer = self._callee.answer(self._caller.peer_id, self._protocol, data[begin:])

    async def read(self) -> bytes:
        if self._takes_s:
            await asyncio.sleep(self._takes_s)
            self._takes_s = 0.0
        answer, self._answer = self._answer or b"", b""
        self._caller.counts.bytes += len(answer)
        return answer

    def stop_reading(self) -> None: ...

    async def wait_unread(self) -> None: ...

    def close(self) -> None: ...


class _CountedStream:
    def __init__(self, inner: Stream, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    async def read(self) -> bytes:
        data = await self._inner.read()
        self._counts.bytes += len(data)
        return data

    async def write(self, data: bytes) -> None:
        self._counts.bytes += len(data)
        await self._inner.write(data)

    def close(self) -> None:
        self._inner.close()


def core_share(counts: Counts, seconds: float) -> float:
    """Of one core, what a storing peer's answers take: as measured here, and a signature for each value it is told."""
    return (counts.answering_s + counts.values_stored * VERIFY_S) / seconds
