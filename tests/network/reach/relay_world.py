"""Relays in memory: which of them are there, give places, and how long a ping takes, on a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.ping import PING_PROTOCOL
from p2pnet.network.libp2p.protobuf import delimited
from p2pnet.network.libp2p.protobuf import field as protobuf_field
from p2pnet.network.libp2p.relay import FAREWELL, LOAD
from p2pnet.network.reach.held_relay import Candidate
from tests.stories import peer

OWN = peer("hidden").peer_id
GENEROUS, STINGY = 4 << 30, 128 << 10


@dataclass
class Relay:
    """One of them. One that is gone accepts nothing; one that is mute accepts pings and says nothing."""

    name: str
    round_trip_s: float = 0.01
    data_bytes: int = GENEROUS
    load_percent: int = 0
    is_there: bool = True
    is_full: bool = False
    is_mute: bool = False
    has_ip6: bool = False
    breaks: bool = False
    """Whether asking it raises what nobody expects."""
    asked: int = 0
    hung_up: int = 0
    streams: list[RelayStream] = field(default_factory=list)

    @property
    def candidate(self) -> Candidate:
        peer_id = peer(self.name).peer_id
        hosts = ("/ip4/127.0.0.1", "/ip6/::1") if self.has_ip6 else ("/ip4/127.0.0.1",)
        return Candidate(peer_id, tuple(f"{host}/tcp/{1 + len(self.name)}/p2p/{peer_id}" for host in hosts))

    def go(self) -> None:
        """Its process is gone, and all connections with it."""
        self.is_there = False
        for stream in self.streams:
            stream.cut()


class RelayStream:
    """A stream to it."""

    def __init__(self, world: RelayWorld, relay: Relay, protocol: str) -> None:
        self.peer_id = relay.candidate.peer_id
        self._world = world
        self._relay = relay
        self._protocol = protocol
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()

    async def read(self) -> bytes:
        return await self._answers.get()

    async def write(self, data: bytes) -> None:
        if self._relay.breaks:
            raise RuntimeError("this was not thought of")
        if not self._relay.is_there:
            raise PeerLost("gone")
        if self._protocol == PING_PROTOCOL:
            if not self._relay.is_mute:
                self._world.now_s += self._relay.round_trip_s
                self._answers.put_nowait(data)
            return
        if data == FAREWELL:
            self.cut()
            return
        self._relay.asked += 1
        limit = protobuf_field(1, 3600) + protobuf_field(2, self._relay.data_bytes)
        status = 200 if self._relay.is_full else 100
        place = protobuf_field(LOAD, self._relay.load_percent)
        answer = protobuf_field(1, 2) + protobuf_field(3, place) + protobuf_field(4, limit) + protobuf_field(5, status)
        self._answers.put_nowait(delimited(answer))

    def close(self) -> None:
        if self in self._relay.streams:
            self._relay.streams.remove(self)

    def cut(self) -> None:
        self._answers.put_nowait(b"")


class RelayWorld:
    """All of them, as one peer reaches them. Time passes while somebody pauses."""

    def __init__(self, *relays: Relay) -> None:
        self.relays = {relay.candidate.peer_id: relay for relay in relays}
        self.now_s = 0.0
        self.changes = 0
        self._pauses: list[tuple[float, asyncio.Event]] = []

    def clock(self) -> float:
        return self.now_s

    def note_change(self) -> None:
        self.changes += 1

    async def pause(self, seconds: float) -> None:
        over = asyncio.Event()
        self._pauses.append((self.now_s + seconds, over))
        await over.wait()

    async def open_raw(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        relay = self.relays[peer_id]
        if not relay.is_there:
            raise PeerUnreachable("gone")
        stream = RelayStream(self, relay, protocol)
        relay.streams.append(stream)
        return stream

    async def hang_up(self, peer_id: str) -> None:
        self.relays[peer_id].hung_up += 1

    async def knock(self, addresses: Sequence[str]) -> bool:
        return any(self.relays[address.rsplit("/", 1)[1]].is_there for address in addresses)

    async def passes(self, seconds: float, is_so: Callable[[], bool] = lambda: False) -> float:
        """Let time pass until it `is_so`, for so long at most; returns how long that took."""
        began_s = self.now_s
        while self.now_s < began_s + seconds and not is_so():
            self.now_s += 0.05
            for until_s, over in self._pauses:
                if until_s <= self.now_s:
                    over.set()
            self._pauses = [pause for pause in self._pauses if not pause[1].is_set()]
            for _ in range(12):
                await asyncio.sleep(0)
        return self.now_s - began_s
