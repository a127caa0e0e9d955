"""A gateway that watches the workers it uses: what they say is known at once, and so is their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.membership.probing import Prober
from gateway.membership.table import PeerTable
from gateway.membership.watching import AGAIN_S, EVENTS_PER_MINUTE, MAX_WATCHED, Watching
from gateway.peers.worker import Worker
from p2pnet.directory import Directory, entries_for, validator
from p2pnet.identity import Identity
from p2pnet.messages import Failed, Load
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import CapabilityRecord, seal
from p2pnet.status_messages import Announced, Status, WatchEvent
from p2pnet.wire.codec import MAX_WATCH_FRAME_BYTES, encode_frame
from p2pnet.wire.exchange import STATUS_PROTOCOL, WATCH_PROTOCOL
from tests.stories import NOW_MS, ManualClock, capability, peer, settle

A, B = peer("a"), peer("b")
SPOKEN = ("/p2pnet/generate/1", STATUS_PROTOCOL, WATCH_PROTOCOL)
TINY, LARGE = ("tiny", "generate"), ("large", "generate")


class Told:
    """A worker that says what a test has it say."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.network = network
        self.streams: list[Stream] = []
        self.first: WatchEvent = Status(True, Load(1, slots=4))
        self.answers_probes = True

    async def serve(self) -> None:
        await self.network.handle(WATCH_PROTOCOL, self._watched)
        await self.network.handle(STATUS_PROTOCOL, self._probed)

    async def say(self, *events: WatchEvent) -> None:
        frames = b"".join(encode_frame(event, MAX_WATCH_FRAME_BYTES) for event in events)
        await self.streams[-1].write(frames)

    async def _watched(self, stream: Stream) -> None:
        self.streams.append(stream)
        await stream.read()
        await self.say(self.first)
        if not isinstance(self.first, Failed):
            await asyncio.Event().wait()

    async def _probed(self, stream: Stream) -> None:
        await stream.read()
        if self.answers_probes:
            await stream.write(encode_frame(Status(True, Load(slots=4)), MAX_WATCH_FRAME_BYTES))


class Site:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.network = self.world.join(peer("gateway").peer_id)
        self.table = PeerTable(Directory(self.network, self.clock), self.now_s, lambda: self.clock.now_ms / 1000)
        self.prober = Prober(self.network, self.table, self.now_s)
        self.table.meet = self.prober.meet
        self.watching = Watching(self.network, self.table, self.prober, self.now_s)
        self.told: dict[str, Told] = {}

    def now_s(self) -> float:
        return (self.clock.now_ms - NOW_MS) / 1000

    async def join(self, identity: Identity, protocols: tuple[str, ...] = SPOKEN, **changes: object) -> Told:
        told = Told(self.world.join(identity.peer_id))
        await told.serve()
        record = self.record(identity, protocols=protocols, **changes)
        await told.network.store(entries_for(record, seal(record, identity)))
        self.told[identity.peer_id] = told
        return told

    def record(self, identity: Identity, *models: str, **changes: object) -> CapabilityRecord:
        self.clock.advance(0.001)
        return capability(identity, *models, issued_ms=self.clock.now_ms, **{"protocols": SPOKEN} | changes)

    async def watched(self, *identities: Identity) -> None:
        """All of them are in use, and watched."""
        await self.table.refresh()
        self.watching.look()
        ids = {identity.peer_id for identity in identities}
        await settle(lambda: all(self.worker(peer_id).load == Load(1, slots=4) for peer_id in ids))
        assert self.watching.watched == ids

    def worker(self, peer_id: str) -> Worker:
        return next(worker for worker in (*self.table.workers, *self.table.lost) if worker.peer_id == peer_id)

    def runs(self, key: tuple[str, str]) -> bool:
        return bool(self.table.roster.of(key))

    async def end(self) -> None:
        running = asyncio.create_task(self.watching.run())
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for told in self.told.values():
            await told.network.kill()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    await made.end()


async def test_what_a_worker_says_is_known_at_once(site: Site) -> None:
    told = await site.join(A)
    await site.watched(A)
    site.clock.advance(1)
    await told.say(Status(True, Load(3, 2, slots=4)))
    await settle(lambda: site.worker(A.peer_id).load == Load(3, 2, slots=4))
    assert site.worker(A.peer_id).heard_s == site.now_s()


async def test_new_models_are_used_without_a_look_into_the_directory(site: Site) -> None:
    told = await site.join(A)
    await site.watched(A)
    await told.say(Announced(seal(site.record(A, "tiny", "large"), A)))
    await settle(lambda: site.runs(LARGE))
    await told.say(Announced(seal(site.record(A, "tiny", withdrawn=("large",)), A)))
    await settle(lambda: not site.runs(LARGE))
    assert site.runs(TINY)


async def test_a_worker_that_says_it_stops_gets_no_more_requests(site: Site) -> None:
    told = await site.join(A)
    await site.watched(A)
    offline = site.record(A, models=(), withdrawn=("tiny",), is_online=False, expires_ms=site.clock.now_ms + 300_000)
    await told.say(Announced(seal(offline, A)))
    await settle(lambda: not site.table.workers)
    site.watching.look()
    await settle(lambda: not site.watching.watched)


@pytest.mark.parametrize("sealed", ["of another", "an older one", b"junk"])
async def test_a_record_that_is_none_of_its_own_changes_nothing(site: Site, sealed: str | bytes) -> None:
    told = await site.join(A)
    await site.watched(A)
    before = site.table.roster
    records = {"of another": (site.record(B, "large"), B), "an older one": (capability(A, "large"), A)}
    await told.say(Announced(sealed if isinstance(sealed, bytes) else seal(*records[sealed])))
    await told.say(Status(True, Load(4, slots=4)))
    await settle(lambda: site.worker(A.peer_id).load == Load(4, slots=4))
    assert site.table.roster is before and not site.runs(LARGE)


async def test_a_stream_that_ends_is_a_lost_worker_at_once(site: Site) -> None:
    told = await site.join(A)
    await site.watched(A)
    await told.network.kill()
    await settle(lambda: not site.table.workers)
    assert [worker.peer_id for worker in site.table.lost] == [A.peer_id]
    await settle(lambda: not site.watching.watched)


async def test_one_whose_stream_alone_has_ended_is_back_with_its_answer(site: Site) -> None:
    """A relay that ends a circuit ends no worker."""
    told = await site.join(A)
    await site.watched(A)
    told.streams[-1].close()
    await settle(lambda: not site.watching.watched)
    assert [worker.peer_id for worker in site.table.workers] == [A.peer_id]
    site.watching.look()
    await settle(lambda: len(told.streams) == 2)


async def test_one_that_refuses_is_left_alone_and_is_no_less_used(site: Site) -> None:
    told = await site.join(A)
    told.first = Failed("busy", "128 gateways watch this worker already")
    await site.table.refresh()
    for _ in range(3):
        site.watching.look()
        await settle(lambda: not site.watching.watched)
    assert (len(told.streams), len(site.table.workers)) == (1, 1)
    site.clock.advance(AGAIN_S)
    site.watching.look()
    await settle(lambda: len(told.streams) == 2)


async def test_a_worker_of_an_earlier_version_is_not_watched(site: Site) -> None:
    await site.join(A, protocols=SPOKEN[:2])
    await site.table.refresh()
    site.watching.look()
    assert not site.watching.watched


async def test_a_worker_behind_a_relay_is_probed(site: Site) -> None:
    """A stream that stays would hold the way through the relay."""
    circuit = f"/ip4/203.0.113.7/tcp/1/p2p/{peer('relay').peer_id}/p2p-circuit/p2p/{A.peer_id}"
    await site.join(A, addresses=(circuit,))
    await site.table.refresh()
    site.watching.look()
    assert site.watching.watched == set() and site.runs(TINY)


async def test_a_worker_that_says_too_much_is_not_listened_to(site: Site) -> None:
    told = await site.join(A)
    await site.watched(A)
    await told.say(*[Status(True)] * EVENTS_PER_MINUTE)
    await settle(lambda: not site.watching.watched)
    assert [worker.peer_id for worker in site.table.workers] == [A.peer_id]


async def test_only_so_many_are_watched_and_those_that_have_served_first(site: Site) -> None:
    identities = [peer(f"worker {number}") for number in range(MAX_WATCHED + 2)]
    for identity in identities:
        await site.join(identity)
    await site.table.refresh()
    while newcomers := site.table.newcomers.next(100):
        await site.prober.meet(newcomers, len(newcomers))
    site.watching.look()
    assert len(site.watching.watched) == MAX_WATCHED
    unwatched = [worker for worker in site.table.workers if worker.peer_id not in site.watching.watched]
    unwatched[0].note_served(TINY)
    for _ in range(3):
        site.watching.look()
        await settle(lambda: len(site.watching.watched) <= MAX_WATCHED)
    assert unwatched[0].peer_id in site.watching.watched
    assert unwatched[1].peer_id not in site.watching.watched
