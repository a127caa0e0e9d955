"""Runs the Network inside one process, for tests, benchmarks and simulations.

A `MemoryWorld` is what libp2p and the DHT are to real peers. Its peers can be killed and cut off from one another,
their streams delayed and limited. Values go through the world's validator on store and on read, as in the DHT.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.clock_watch import IN_TIME
from p2pnet.network.interface import (
    NOTHING_RELAYED,
    Entry,
    Findings,
    Meeting,
    Relayed,
    StoredValue,
    Stream,
    StreamHandler,
    Validator,
    key_id,
)
from p2pnet.network.multiaddrs import peer_id_of

WINDOW_BYTES = 1 << 18
"""What a stream holds before its writer must wait: a yamux window, as in libp2p."""


@dataclass
class Faults:
    """What goes wrong in a world, changed by tests while it runs."""

    severed: set[frozenset[str]] = field(default_factory=set)
    """Pairs of peers that cannot open streams to one another."""
    before_delivery: Callable[[], Awaitable[None]] | None = None
    """Awaited before bytes are handed over: a delay, or a gate that a test holds."""


class MemoryWorld:
    """The peers that can meet, and the values they have stored."""

    def __init__(self, is_acceptable: Validator) -> None:
        self.is_acceptable = is_acceptable
        self.faults = Faults()
        self.peers: dict[str, MemoryNetwork] = {}
        self.values: defaultdict[str, dict[str, StoredValue]] = defaultdict(dict)

    def join(self, peer_id: str) -> MemoryNetwork:
        """A new peer of this world."""
        self.peers[peer_id] = MemoryNetwork(self, peer_id)
        return self.peers[peer_id]

    def put(self, key: str, stored: StoredValue) -> bool:
        """Offer a value to the peers that store for others, as any stranger may. Returns whether they accept it."""
        if stored.key_id != key_id(key):
            return False
        known = self.values[key].get(stored.subkey)
        is_newer = known is None or stored.expires_ms > known.expires_ms
        if not (is_newer and self.is_acceptable(stored)):
            return False
        self.values[key][stored.subkey] = stored
        return True


class MemoryNetwork:
    """One peer of a MemoryWorld. See `interface.Network`."""

    def __init__(self, world: MemoryWorld, peer_id: str) -> None:
        self._world = world
        self._peer_id = peer_id
        self._handlers: dict[str, StreamHandler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[_MemoryStream] = set()
        self._changed = asyncio.Event()
        self.clock = IN_TIME

    @property
    def peer_id(self) -> str:
        return self._peer_id

    @property
    def neighbours(self) -> int:
        return len(self._world.peers.keys() - {self._peer_id})

    async def meet(self, address: str) -> Meeting:
        peer_id = peer_id_of(address)
        if peer_id not in self._world.peers or self._is_severed(peer_id):
            raise PeerUnreachable(f"nobody answers at {address}")
        return Meeting(took_s=0.0, clock_ahead_s=0.0)

    @property
    def open_streams(self) -> int:
        return len(self._streams)

    async def addresses(self) -> tuple[str, ...]:
        return (f"/memory/0/p2p/{self._peer_id}",)

    @property
    def is_direct(self) -> bool:
        return True

    def is_direct_to(self, peer_id: str) -> bool | None:
        return None

    @property
    def relayed(self) -> Relayed:
        return NOTHING_RELAYED

    async def record_addresses(self) -> tuple[str, ...]:
        """Nothing is dialled here: records need one of their usual form."""
        return (f"/ip4/127.0.0.1/tcp/1/p2p/{self._peer_id}",)

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        self._handlers[protocol] = handler

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        peer = self._world.peers.get(peer_id)
        if peer is None or self._is_severed(peer_id) or protocol not in peer._handlers:
            raise PeerUnreachable(f"no {protocol} stream to {peer_id}")
        ours, theirs = _stream_pair(self, peer)
        peer._serve(peer._handlers[protocol], theirs)
        return ours

    def wants_new_stream(self, peer_id: str, addresses: Sequence[str]) -> bool:
        return False

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self.open_stream(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        for stream in [stream for stream in self._streams if stream.peer_id == peer_id]:
            stream.close()

    async def store(self, entries: Sequence[Entry]) -> int:
        if self._peer_id not in self._world.peers:
            return 0  # nobody hears of it any more
        values = ((entry.key, self._stored(entry)) for entry in entries)
        return sum(self._world.put(key, stored) for key, stored in values)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        world = self._world
        return {key: [value for value in world.values[key].values() if world.is_acceptable(value)] for key in keys}

    def held(self, key: str) -> int:
        return len(self._world.values[key])

    async def wait_changed(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def close(self) -> None:
        await self.kill()

    def change(self) -> None:
        """Make `wait_changed` return, as a new address would."""
        self._changed.set()

    async def kill(self) -> None:
        """Disappear: every stream ends, nothing is withdrawn."""
        self._world.peers.pop(self._peer_id, None)
        for stream in list(self._streams):
            stream.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _is_severed(self, peer_id: str) -> bool:
        return frozenset((peer_id, self._peer_id)) in self._world.faults.severed

    def _stored(self, entry: Entry) -> StoredValue:
        return StoredValue(key_id(entry.key), self._peer_id, entry.value, entry.expires_ms)

    def _serve(self, handler: StreamHandler, stream: _MemoryStream) -> None:
        async def serve() -> None:
            try:
                await handler(stream)
            finally:
                stream.close()

        task = asyncio.create_task(serve())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Pipe:
    """One direction of a stream."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.buffered_bytes = 0
        self.is_closed = False
        self.event = asyncio.Event()

    def notify(self) -> None:
        self.event.set()

    async def wait(self) -> None:
        self.event.clear()
        await self.event.wait()


class _MemoryStream:
    def __init__(self, owner: MemoryNetwork, peer_id: str, inbound: _Pipe, outbound: _Pipe) -> None:
        self._owner = owner
        self._peer_id = peer_id
        self._inbound = inbound
        self._outbound = outbound
        self.is_idle = False

    @property
    def peer_id(self) -> str:
        return self._peer_id

    async def read(self) -> bytes:
        pipe = self._inbound
        while not pipe.chunks and not pipe.is_closed:
            await pipe.wait()
        if pipe.chunks and (gate := self._owner._world.faults.before_delivery) is not None:
            await gate()
        data = b"".join(pipe.chunks)
        pipe.chunks.clear()
        pipe.buffered_bytes = 0
        pipe.notify()
        return data

    async def write(self, data: bytes) -> None:
        pipe = self._outbound
        while pipe.buffered_bytes >= WINDOW_BYTES and not pipe.is_closed:
            await pipe.wait()
        if pipe.is_closed:
            raise PeerLost(f"the stream to {self._peer_id} is gone")
        if data:  # a socket sends nothing for nothing: an empty chunk would read as the stream's end
            pipe.chunks.append(bytes(data))
            pipe.buffered_bytes += len(data)
            pipe.notify()
        await asyncio.sleep(0)  # as a socket does, let the reader have its turn

    def close(self) -> None:
        for pipe in (self._inbound, self._outbound):
            pipe.is_closed = True
            pipe.notify()
        self._owner._streams.discard(self)


def _stream_pair(opener: MemoryNetwork, server: MemoryNetwork) -> tuple[_MemoryStream, _MemoryStream]:
    to_server, to_opener = _Pipe(), _Pipe()
    ours = _MemoryStream(opener, server.peer_id, to_opener, to_server)
    theirs = _MemoryStream(server, opener.peer_id, to_server, to_opener)
    opener._streams.add(ours)
    server._streams.add(theirs)
    return ours, theirs
