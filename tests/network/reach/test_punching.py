"""Two peers that are connected through a relay, in memory, and whether they come to be connected without it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from p2pnet.errors import PeerUnreachable
from p2pnet.network.dial_addresses import Scope
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.hole_punch import connect, sync
from p2pnet.network.reach.candidates import Candidates
from p2pnet.network.reach.punching import (
    ANSWERED_PER_MINUTE,
    DIAL_S,
    FIRST_PAUSE_S,
    MAX_PAUSE_S,
    MAX_REMEMBERED,
    PUNCH_PROTOCOL,
    SOON_S,
    Puncher,
    fitting,
)
from tests.stories import peer, settle

RELAY = peer("relay").peer_id
CIRCUIT_END = f"/ip4/20.1.1.1/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit"


class Line:
    """One direction of a stream, or both ends' end."""

    def __init__(self) -> None:
        self.data: asyncio.Queue[bytes] = asyncio.Queue()


class MemoryStream:
    def __init__(self, peer_id: str, coming: Line, going: Line, address: str = CIRCUIT_END) -> None:
        self.peer_id = peer_id
        self.address = address
        self._coming, self._going = coming, going

    async def read(self) -> bytes:
        data = await self._coming.data.get()
        if not data:
            self._coming.data.put_nowait(b"")
        return data

    async def write(self, data: bytes) -> None:
        self._going.data.put_nowait(data)

    def close(self) -> None:
        self._going.data.put_nowait(b"")
        self._coming.data.put_nowait(b"")


class World:
    """Both of them. `has_hole`: dialling at the same time works. Time passes while somebody pauses."""

    def __init__(self, has_hole: bool = True, knows_protocol: bool = True) -> None:
        self.has_hole = has_hole
        self.knows_protocol = knows_protocol
        self.is_direct = False
        self.is_connected = True
        self.now_s = 0.0
        self.log: list[str] = []
        self.dialled: set[str] = set()
        self.serving: list[asyncio.Task[None]] = []
        self.gateway, self.worker = Side(self, "gateway"), Side(self, "worker")

    async def pause(self, seconds: float) -> None:
        self.now_s += seconds
        await asyncio.sleep(0)

    async def open(self, address: str = CIRCUIT_END) -> MemoryStream:
        """A stream of the gateway's to the worker, which is served there."""
        if not self.knows_protocol:
            raise PeerUnreachable("it does not speak this")
        there, back = Line(), Line()
        served = MemoryStream(self.gateway.peer_id, there, back, address)
        self.serving.append(asyncio.create_task(self.worker.puncher.serve(served)))
        return MemoryStream(self.worker.peer_id, back, there)

    async def wants_stream(self, *addresses: str) -> None:
        await self.gateway.puncher.before_stream(self.worker.peer_id, (*addresses, *self.worker.circuits))
        await settle(lambda: all(task.done() for task in self.serving))


class Side:
    """One of them, and its ground."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.peer_id = peer(name).peer_id
        self.circuits = (f"{CIRCUIT_END}/p2p/{self.peer_id}",)
        self.named: tuple[str, ...] = (f"/ip4/20.2.2.{len(name)}/udp/1/quic-v1",)
        self.busy = False
        self.puncher = Puncher(self, Scope.PUBLIC, self._is_direct, lambda: world.now_s, world.pause)

    def _is_direct(self, peer_id: str) -> bool | None:
        return self.world.is_direct if self.world.is_connected else None

    async def open_toward(self, peer_id: str, protocol: str, addresses: Sequence[str]) -> Stream:
        assert protocol == PUNCH_PROTOCOL
        assert set(addresses) >= set(self.world.worker.circuits)
        return await self.world.open()

    async def hang_up_for_now(self, peer_id: str) -> None:
        self.world.log.append(f"{self.name} hangs up")

    async def dial_at(self, peer_id: str, addresses: Sequence[str]) -> None:
        self.world.log.append(f"{self.name} dials {' '.join(addresses)}")
        self.world.dialled.add(self.name)
        self.world.is_direct = self.world.has_hole and len(self.world.dialled) == 2
        await asyncio.Event().wait()

    async def is_direct(self, peer_id: str) -> bool:
        return self.world.is_direct

    def is_in_use(self, peer_id: str, besides: Stream | None = None) -> bool:
        return self.busy

    async def candidates(self) -> Candidates:
        return Candidates(self.named, frozenset({"20.2.2.2"}))


async def test_both_dial_at_the_same_time() -> None:
    world = World()
    await world.wants_stream()
    assert world.is_direct
    assert sorted(world.log) == [
        f"gateway dials /ip4/20.2.2.6/udp/1/quic-v1/p2p/{world.worker.peer_id}",
        "gateway hangs up",
        f"worker dials /ip4/20.2.2.7/udp/1/quic-v1/p2p/{world.gateway.peer_id}",
        "worker hangs up",
    ]
    assert world.now_s < DIAL_S


async def test_who_wants_a_stream_meanwhile_waits_for_the_same() -> None:
    world = World()
    await asyncio.gather(*(world.wants_stream() for _ in range(5)))
    assert len(world.log) == 4


async def test_what_is_connected_directly_stays_so() -> None:
    world = World()
    await world.wants_stream()
    world.now_s += 1e6
    await world.wants_stream()
    assert len(world.log) == 4
    world.is_direct, world.dialled = False, set()
    await world.wants_stream()
    assert world.is_direct, "when that is lost another hole is punched"


@pytest.mark.parametrize(
    "addresses",
    [(), (f"/ip4/20.2.2.2/udp/1/quic-v1/p2p/{peer('worker').peer_id}", *World().worker.circuits)],
    ids=["nothing is known", "it can be dialled"],
)
async def test_who_names_more_than_relays_is_dialled_as_ever(addresses: Sequence[str]) -> None:
    world = World()
    world.is_connected = False
    await world.gateway.puncher.before_stream(world.worker.peer_id, addresses)
    assert world.serving == []


async def test_who_could_not_be_dialled_where_it_said_is_punched_to() -> None:
    """It is open over IPv6, and whoever wants it has IPv4 alone."""
    world = World()
    await world.wants_stream(f"/ip6/2600::2/udp/1/quic-v1/p2p/{world.worker.peer_id}")
    assert world.is_direct


async def test_where_it_does_not_work_it_is_left_alone_for_longer_and_longer() -> None:
    world = World(has_hole=False)
    pause_s, tries = FIRST_PAUSE_S, 0
    while pause_s < 4 * MAX_PAUSE_S:
        await world.wants_stream()
        tries += 1
        assert len(world.serving) == tries
        world.now_s += min(pause_s, MAX_PAUSE_S) - 1.1
        await world.wants_stream()
        assert len(world.serving) == tries
        world.now_s += 1.2
        pause_s *= 2
    world.gateway.puncher.note_moved()
    await world.wants_stream()
    assert len(world.serving) == tries + 1, "in another network it may work"


@pytest.mark.parametrize("busy", ["gateway", "worker"])
async def test_what_is_in_use_is_not_given_up(busy: str) -> None:
    world = World()
    side = world.gateway if busy == "gateway" else world.worker
    side.busy = True
    await world.wants_stream()
    assert world.log == []
    side.busy = False
    world.now_s += max(SOON_S, FIRST_PAUSE_S)
    await world.wants_stream()
    assert world.is_direct


async def test_a_peer_that_does_not_speak_this_is_served_as_before() -> None:
    world = World(knows_protocol=False)
    await world.wants_stream()
    assert world.log == []


async def test_who_is_connected_directly_has_no_need_of_it() -> None:
    world = World()
    stream = await world.open(address="/ip4/20.2.2.7/udp/1/quic-v1")
    assert await stream.read() == b""
    assert world.log == []


@pytest.mark.parametrize(
    "said",
    [
        (b"\xff" * 20,),
        (connect(["/ip4/192.168.1.1/udp/1/quic-v1"]), sync()),
        (connect(["/ip4/20.2.2.7/tcp/1/ws"]), sync()),
        (connect([]), sync()),
        (connect(["/ip4/20.2.2.7/udp/1/quic-v1"]), connect([])),
    ],
    ids=["junk", "a home's router", "WebSocket", "nothing", "no sync"],
)
async def test_strangers_make_nobody_dial_what_may_not_be_dialled(said: Sequence[bytes]) -> None:
    world = World()
    stream = await world.open()
    for data in said:
        await stream.write(data)
    await settle(lambda: world.serving[0].done())
    assert world.log == []


async def test_so_many_are_answered_in_a_minute() -> None:
    world = World()
    refused = 0
    for _ in range(int(ANSWERED_PER_MINUTE)):
        stream = await world.open()
        await stream.write(connect(["/ip4/20.2.2.7/udp/1/quic-v1"]))
        refused += await stream.read() == b""
        stream.close()
        await settle(lambda: world.serving[-1].done())
    assert refused > ANSWERED_PER_MINUTE / 2, "but for a sixth at once"


async def test_what_was_tried_is_remembered_of_so_many() -> None:
    world = World(knows_protocol=False)
    for number in range(MAX_REMEMBERED + 10):
        await world.gateway.puncher.before_stream(f"peer {number}", world.worker.circuits)
    assert len(world.gateway.puncher._tried) == MAX_REMEMBERED


NEAR = Candidates(hosts=frozenset({"20.9.9.9"}))
AT_HOME, THEIRS = "/ip4/192.168.1.7/udp/1/quic-v1", "/ip4/20.9.9.9/udp/1/quic-v1"
PEER = peer("worker").peer_id


@pytest.mark.parametrize(
    ("named", "own", "scope", "expected"),
    [
        ([THEIRS, AT_HOME], Candidates(), Scope.PUBLIC, [THEIRS]),
        ([THEIRS, AT_HOME], NEAR, Scope.PUBLIC, [THEIRS, AT_HOME]),
        ([AT_HOME], NEAR, Scope.PUBLIC, []),
        ([AT_HOME], Candidates(), Scope.PRIVATE, [AT_HOME]),
        ([THEIRS, "/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/169.254.169.254/udp/1/quic-v1"], NEAR, Scope.PUBLIC, [THEIRS]),
        ([f"{THEIRS}/p2p/{RELAY}/p2p-circuit", "/dns4/x.example/udp/1/quic-v1"], NEAR, Scope.PUBLIC, []),
    ],
)
def test_where_a_peer_is_dialled(named: list[str], own: Candidates, scope: Scope, expected: list[str]) -> None:
    full = [f"{address}/p2p/{PEER}" for address in expected]
    if full:
        assert fitting(PEER, named, own, scope) == full
    else:
        with pytest.raises(ValueError, match="nothing that may be dialled"):
            fitting(PEER, named, own, scope)
