"""Probing: whom this gateway asks whether they are there, what it makes of the answer, and how soon that tells."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import count, product
from typing import Any

import msgspec
import pytest

from gateway.membership.crawl import CRAWL_INTERVAL_S
from gateway.membership.probing import (
    AGAIN_S,
    ENOUGH_WORKERS,
    MAX_NEWCOMERS,
    MAX_PROBES,
    MAX_STRANGERS,
    MAX_URGENT_TIMEOUT_S,
    RELAYED_TIMEOUT_S,
    ROUND_S,
    ROUND_TRIPS,
    TIMEOUT_S,
    UNHEARD_S,
    URGENT_TIMEOUT_S,
    Prober,
    first_timeout_s,
    urgent_timeout_s,
)
from gateway.membership.table import PeerTable
from gateway.peers.health import COOLDOWN_S
from gateway.peers.worker import Worker
from gateway.routing.choose import choose
from gateway.routing.route_query import RouteQuery
from p2pnet.directory import Directory, entries_for, validator
from p2pnet.errors import DaemonFailed, P2PNetError, PeerUnreachable
from p2pnet.identity import Identity
from p2pnet.messages import Failed, Load
from p2pnet.network.interface import Entry, Findings, Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import seal
from p2pnet.status_messages import Status, StatusEvent
from p2pnet.wire.codec import MAX_STATUS_FRAME_BYTES, encode_frame
from p2pnet.wire.exchange import GENERATE_PROTOCOL, STATUS_PROTOCOL
from tests.stories import NOW_MS, ManualClock, capability, card, peer

A, B = peer("a"), peer("b")
KEY = ("tiny", "generate")
SPOKEN = (GENERATE_PROTOCOL, STATUS_PROTOCOL)

TURNS = 20
"""Turns of the event loop within which everybody has done what is to be done at one moment."""


class ManualTime:
    """Seconds that pass when a test says so, and whoever sleeps in them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = count()

    def now_s(self) -> float:
        return (self.clock.now_ms - NOW_MS) / 1000

    def unix_s(self) -> float:
        return self.clock.now_ms / 1000

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now_s() + seconds, next(self._order), event))
        await event.wait()

    async def pass_to(self, moment_s: float) -> None:
        while self._sleepers and self._sleepers[0][0] <= moment_s:
            due_s, _, event = heapq.heappop(self._sleepers)
            self.clock.now_ms = NOW_MS + round(1000 * due_s)
            event.set()
            await turn()
        self.clock.now_ms = NOW_MS + round(1000 * moment_s)
        await turn()


async def turn() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class GatewayNetwork:
    """A gateway's network in which some peers do not answer: those in `silent` are found to be after TIMEOUT_S, those
    in `failing` at once with an error."""

    def __init__(self, world: MemoryWorld, passing: ManualTime) -> None:
        self._inner = world.join(peer("gateway").peer_id)
        self._passing = passing
        self.silent: set[str] = set()
        self.failing: dict[str, P2PNetError] = {}
        self.asked: list[str] = []
        self.hung_up: list[str] = []
        self.change_fails: Exception | None = None
        """What waiting for a change raises once."""

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    @property
    def open_streams(self) -> int:
        return self._inner.open_streams

    @property
    def is_direct(self) -> bool:
        return True

    async def record_addresses(self) -> tuple[str, ...]:
        return await self._inner.record_addresses()

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._inner.handle(protocol, handler)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        self.asked.append(peer_id)
        if peer_id in self.silent:
            await self._passing.sleep(TIMEOUT_S)
            raise PeerUnreachable("no answer")
        if peer_id in self.failing:
            raise self.failing[peer_id]
        return await self._inner.open_stream(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        self.hung_up.append(peer_id)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._inner.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self._inner.fetch(keys)

    def held(self, key: str) -> int:
        return self._inner.held(key)

    async def wait_changed(self) -> None:
        if self.change_fails is not None:
            error, self.change_fails = self.change_fails, None
            raise error
        await self._inner.wait_changed()

    def change(self) -> None:
        self._inner.change()

    async def close(self) -> None:
        await self._inner.close()


def says(event: StatusEvent) -> StreamHandler:
    """A worker that answers every probe so."""

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(encode_frame(event, MAX_STATUS_FRAME_BYTES))

    return handle


async def talks_nonsense(stream: Stream) -> None:
    await stream.write(b"\0\0\0\1x")


class Site:
    """A gateway's table and prober, and workers that answer probes."""

    def __init__(self) -> None:
        self.passing = ManualTime()
        self.world = MemoryWorld(validator(self.passing.clock))
        self.network = GatewayNetwork(self.world, self.passing)
        directory = Directory(self.network, self.passing.clock)
        self.table = PeerTable(directory, self.passing.now_s, self.passing.unix_s)
        self.prober = Prober(self.network, self.table, self.passing.now_s)

    async def join(self, identity: Identity, handler: StreamHandler | None = None) -> MemoryNetwork:
        network = self.world.join(identity.peer_id)
        await network.handle(STATUS_PROTOCOL, handler or says(Status(True, Load(1, slots=4))))
        return network

    async def announce(self, identity: Identity, **changes: Any) -> None:
        self.passing.clock.advance(0.001)
        await self._store(identity, capability(identity, issued_ms=self.passing.clock.now_ms, **changes))

    async def say_load(self, identity: Identity, clock_ahead_s: float = 0.0) -> None:
        its_ms = self.passing.clock.now_ms + round(1000 * clock_ahead_s)
        record = capability(identity, issued_ms=its_ms, protocols=SPOKEN, load=Load(1, sampled_ms=its_ms))
        await self._store(identity, record)

    async def _store(self, identity: Identity, record: Any) -> None:
        await self.world.peers[identity.peer_id].store(entries_for(record, seal(record, identity)))

    def worker(self, identity: Identity) -> Worker:
        return next(w for w in (*self.table.workers, *self.table.lost) if w.peer_id == identity.peer_id)

    def workers(self) -> set[str]:
        return {worker.peer_id for worker in self.table.workers}


async def announced(*identities: Identity, handler: StreamHandler | None = None, **changes: Any) -> Site:
    """Workers of which the gateway has only read."""
    site = Site()
    for identity in identities:
        await site.join(identity, handler)
        await site.announce(identity, **{"protocols": SPOKEN} | changes)
    await site.table.refresh()
    return site


async def site_of(*identities: Identity, handler: StreamHandler | None = None, **changes: Any) -> Site:
    """Workers in use, that have answered once and said no more."""
    site = await announced(*identities, handler=handler, **changes)
    for newcomer in site.table.newcomers.next(len(identities)):
        site.table.note_found(newcomer)
    return site


# ---- whom it asks


def crowd(site: Site, size: int, lost: int = 0, heard_s: float = 0.0) -> list[Worker]:
    """So many workers more in the table, the first of them lost."""
    record = capability(A, protocols=SPOKEN)
    workers = []
    for number in range(size):
        worker = Worker(msgspec.structs.replace(record, peer_id=f"{number:052}"))
        worker.heard_s = heard_s
        site.table._workers[worker.peer_id] = worker
        workers.append(worker)
    for worker in workers[:lost]:
        site.table._lost[worker.peer_id] = site.table._workers.pop(worker.peer_id)
    return workers


async def test_who_was_heard_of_is_not_asked() -> None:
    site = Site()
    crowd(site, 3, heard_s=0.0)
    assert site.prober.due() == []
    await site.passing.pass_to(UNHEARD_S)
    assert site.prober.due() == []
    await site.passing.pass_to(UNHEARD_S + 0.1)
    assert len(site.prober.due()) == 3


async def test_who_is_silent_for_longest_is_asked_first_and_who_never_spoke_last() -> None:
    site = Site()
    await site.passing.pass_to(100)
    workers = crowd(site, 5)
    for worker, heard_s in zip(workers, (60.0, float("-inf"), 20.0, 95.0, 80.0), strict=True):
        worker.heard_s = heard_s
    assert site.prober.due() == [workers[2], workers[0], workers[4], workers[1]]


@pytest.mark.parametrize(
    ("reason", "failures", "while_it_cools", "on_trial"),
    [("peer_lost", 1, True, True), ("peer_lost", 2, True, False), ("protocol_violation", 1, True, False)],
    ids=["was absent", "is absent again and again", "breaks the protocol"],
)
async def test_of_those_on_trial_only_whose_answer_would_end_it_are_asked(
    reason: str, failures: int, while_it_cools: bool, on_trial: bool
) -> None:
    site = Site()
    [worker] = crowd(site, 1)
    for _ in range(failures):
        await site.passing.pass_to(worker.health.cooling_until_s or 0.0)
        worker.health.note_failure(site.passing.now_s(), reason)
    for is_asked in (while_it_cools, on_trial):
        worker.heard_s = site.passing.now_s()
        assert site.prober.due() == [worker] * is_asked
        assert worker.health.cooling_until_s is not None
        await site.passing.pass_to(worker.health.cooling_until_s)


async def test_a_worker_one_of_whose_models_cools_is_asked_too() -> None:
    site = Site()
    [worker] = crowd(site, 1)
    await site.passing.pass_to(0.0)
    worker.heard_s = site.passing.now_s()
    assert site.prober.due() == []
    worker.health_of(("tiny", "generate")).note_failure(site.passing.now_s(), "protocol_violation")
    assert site.prober.due() == [worker]


async def test_nobody_is_asked_twice_in_a_moment_and_all_are_asked_in_turn() -> None:
    site = Site()
    everybody = {worker.peer_id for worker in crowd(site, 3 * MAX_PROBES, lost=3 * MAX_PROBES)}
    site.network.failing = dict.fromkeys(everybody, PeerUnreachable("gone"))
    for moment in range(3):
        await site.passing.pass_to(moment * ROUND_S / 2)
        await site.prober.probe_round()
    assert sorted(site.network.asked) == sorted(everybody)
    await site.prober.probe_round()
    assert len(site.network.asked) == len(everybody)
    await site.passing.pass_to(AGAIN_S)
    assert {worker.peer_id for worker in site.prober.due()} == set(site.network.asked[:MAX_PROBES])


@pytest.mark.parametrize(
    ("lost", "silent", "of_lost", "of_silent"),
    [
        (0, 10_000, 0, MAX_PROBES),
        (10_000, 0, MAX_PROBES, 0),
        (5_000, 5_000, MAX_PROBES // 2, MAX_PROBES // 2),
        (5_000, 3, MAX_PROBES - 3, 3),
        (3, 5_000, 3, MAX_PROBES - 3),
        (2, 3, 2, 3),
    ],
)
async def test_a_round_is_bounded_and_neither_the_lost_nor_the_silent_take_it_all(
    lost: int, silent: int, of_lost: int, of_silent: int
) -> None:
    site = Site()
    for worker in crowd(site, lost + silent, lost):
        worker.health.has_served = True
    await site.passing.pass_to(100)
    due = site.prober.due()
    is_lost = [worker in site.table._lost.values() for worker in due]
    assert (sum(is_lost), len(due) - sum(is_lost)) == (of_lost, of_silent)


async def test_a_large_network_costs_little_to_look_through() -> None:
    site = Site()
    crowd(site, 10_000, lost=5_000)
    await site.passing.pass_to(100)
    site.prober.due()
    began_s = time.process_time()
    site.prober.due()
    assert time.process_time() - began_s < 0.5  # some 20 ms; a look at all for each of them would take a minute


@pytest.mark.parametrize("protocols", [(GENERATE_PROTOCOL,), ()])
async def test_who_cannot_be_asked_is_not_used(protocols: tuple[str, ...]) -> None:
    site = await announced(A, protocols=protocols)
    site.prober.meet_next()
    await turn()
    assert site.network.asked == []
    assert site.workers() == set()
    await site.announce(A, protocols=SPOKEN)
    await site.table.refresh()
    site.prober.meet_next()
    await turn()
    assert site.workers() == {A.peer_id}
    await site.announce(A, protocols=protocols)
    await site.table.refresh()
    assert site.workers() == set()


# ---- newcomers


async def test_a_newcomer_is_used_once_it_has_answered_and_not_before() -> None:
    site = await announced(A)
    assert (site.workers(), site.table.models()) == (set(), [])
    site.prober.meet_next()
    await turn()
    assert site.workers() == {A.peer_id}
    worker = site.worker(A)
    assert worker.heard_s == site.passing.now_s()
    assert worker.load is not None and worker.load.slots == 4


async def test_one_that_does_not_answer_is_asked_more_and_more_seldom_and_used_once_it_does() -> None:
    site = await announced(A)
    site.network.failing[A.peer_id] = PeerUnreachable("gone")
    asked_s = []
    for second in range(150):
        await site.passing.pass_to(float(second))
        await site.table.refresh()
        before = len(site.network.asked)
        site.prober.meet_next()
        await turn()
        if len(site.network.asked) > before:
            asked_s.append(second)
    assert asked_s == [0, 2, 6, 14, 30, 62, 126]
    assert site.network.hung_up == [A.peer_id] * 7
    assert site.table.lost == ()
    del site.network.failing[A.peer_id]
    await site.passing.pass_to(160.0)
    await site.announce(A, protocols=SPOKEN, addresses=("/ip4/198.51.100.1/tcp/1/p2p/" + A.peer_id,))
    await site.table.refresh()
    site.prober.meet_next()
    await turn()
    assert site.workers() == {A.peer_id}, "it has moved"


async def test_so_many_newcomers_are_asked_in_a_second_and_no_more() -> None:
    site = Site()
    flood(site, 10 * MAX_NEWCOMERS)
    for second in range(5):
        for part in (0.0, 0.4, 0.9):
            await site.passing.pass_to(second + part)
            site.prober.meet_next()
            await turn()
        assert len(site.network.asked) == (second + 1) * MAX_NEWCOMERS


async def test_a_flood_of_newcomers_keeps_nobody_from_being_missed() -> None:
    site = Site()
    lost = crowd(site, 3, lost=3)
    flood(site, 1_000)
    await site.passing.pass_to(100.0)
    assert site.prober.due() == lost


async def test_who_has_served_is_asked_before_strangers_in_trouble() -> None:
    site = Site()
    workers = crowd(site, 10 * MAX_PROBES, lost=5 * MAX_PROBES)
    known = [workers[5 * MAX_PROBES - 1], workers[-1]]
    for worker in known:
        worker.health.note_success()
    await site.passing.pass_to(100.0)
    assert set(known) < set(site.prober.due())


def flood(site: Site, size: int, subnet: str = "198.51.100") -> None:
    """So many newcomers more, at the addresses of one subnet."""
    record = capability(A, protocols=SPOKEN)
    records = [
        msgspec.structs.replace(record, peer_id=f"{number:052}", addresses=(f"/ip4/{subnet}.{number % 250}/tcp/1",))
        for number in range(size)
    ]
    site.table.newcomers.offer(records, site.passing.now_s())


async def test_a_request_for_a_model_that_only_newcomers_run_waits_for_their_answer_and_no_longer() -> None:
    site = Site()
    site.table.meet = site.prober.meet
    flood(site, 50)
    site.network.silent = {f"{number:052}" for number in range(50)}
    for identity in (A, B):
        await site.join(identity)
    site.network.silent.add(B.peer_id)
    await site.announce(A, protocols=SPOKEN, models=(card("rare"),))
    await site.announce(B, protocols=SPOKEN, models=(card("rare"),))
    await site.table.look_up("rare")
    assert site.workers() == {A.peer_id}
    assert site.passing.now_s() < 0.1, "the silent one was not waited for"


async def test_a_request_waits_for_the_probe_that_is_under_way() -> None:
    site = await announced(A)
    site.table.meet = site.prober.meet
    site.prober.meet_next()
    await site.table.look_up("tiny")
    assert site.workers() == {A.peer_id}
    assert site.network.asked == [A.peer_id]


async def test_a_model_of_newcomers_that_are_silent_is_known_and_nobody_runs_it() -> None:
    site = await announced(A)
    site.table.meet = site.prober.meet
    site.network.failing[A.peer_id] = PeerUnreachable("gone")
    assert site.table.has_known("tiny")
    await site.table.look_up("tiny")
    assert site.workers() == set()
    assert site.table.models() == []


async def test_a_gateway_that_starts_is_ready_once_it_has_met_those_that_answer() -> None:
    site = Site()
    site.table.meet = site.prober.meet
    for identity in (A, B):
        await site.join(identity)
        await site.announce(identity, protocols=SPOKEN)
    site.network.silent.add(B.peer_id)
    starting = asyncio.create_task(site.table.refresh())
    await turn()
    assert site.workers() == {A.peer_id}
    assert not site.table.has_refreshed
    await site.passing.pass_to(TIMEOUT_S)
    await starting
    assert site.table.has_refreshed


# ---- what it makes of the answer


async def test_who_was_absent_and_answers_is_well_at_once_and_many_may_go_there() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    worker.health.note_failure(site.passing.now_s(), "peer_lost")
    await site.announce(A, protocols=SPOKEN)
    await site.table.refresh()
    worker.reserve(KEY, site.passing.now_s())
    assert not worker.health.may_take(site.passing.now_s()), "one at a time may try whether it can be reached"
    await site.prober.probe_round()
    assert worker.health.may_take(site.passing.now_s())


async def test_an_answer_says_how_the_worker_is() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    await site.passing.pass_to(3)
    await site.prober.probe_round()
    assert worker.heard_s == site.passing.now_s()
    assert worker.load is not None and worker.load.slots == 4
    assert worker.round_trip_s.value == 0.0


@pytest.mark.parametrize("code", ["busy", "not_allowed", "draining", "protocol_violation", "something new"])
async def test_who_refuses_to_say_is_there(code: str) -> None:
    site = await site_of(A, handler=says(Failed(code)))
    worker = site.worker(A)
    await site.passing.pass_to(20)
    await site.prober.probe_round()
    assert site.workers() == {A.peer_id}
    assert worker.heard_s == site.passing.now_s()
    assert await site.prober.is_there(worker)
    site.table.note_lost(worker)
    await site.passing.pass_to(30)
    await site.prober.probe_round()
    assert site.workers() == {A.peer_id}


@pytest.mark.parametrize("error", [PeerUnreachable("gone"), DaemonFailed("p2pd has gone", "")])
async def test_who_does_not_answer_is_lost_and_hung_up_on(error: P2PNetError) -> None:
    site = await site_of(A, B)
    site.network.failing[A.peer_id] = error
    assert not await site.prober.is_there(site.worker(A))
    await site.prober.probe_round()
    assert site.workers() == {B.peer_id}
    assert site.network.hung_up == [A.peer_id]


@pytest.mark.parametrize("is_back", [True, False])
async def test_who_is_lost_in_mid_answer_is_dialled_anew_at_once(is_back: bool) -> None:
    """What led to it may have gone, and not itself. One that has gone is left to the next rounds."""
    site = await site_of(A, B)
    worker = site.worker(A)
    site.network.failing[A.peer_id] = PeerUnreachable("gone")
    assert not await site.prober.is_there(worker)
    if is_back:
        del site.network.failing[A.peer_id]
    site.prober.lose(worker)
    assert site.workers() == {B.peer_id}
    await turn()
    assert (A.peer_id in site.workers()) == is_back
    assert worker.health.may_take(site.passing.now_s()) == is_back
    assert (site.network.hung_up[0], site.network.asked) == (A.peer_id, [A.peer_id] * 2)
    assert worker not in site.prober.due()


async def test_who_answers_and_goes_at_once_is_lost() -> None:
    async def goes(stream: Stream) -> None:
        await stream.read()

    site = await site_of(A, handler=goes)
    await site.prober.probe_round()
    assert site.workers() == set()


async def test_who_sends_tokens_meanwhile_is_there() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    site.network.silent.add(A.peer_id)
    probing = asyncio.create_task(site.prober.probe_round())
    await turn()
    await site.passing.pass_to(1)
    worker.heard_s = site.passing.now_s()
    await site.passing.pass_to(1 + TIMEOUT_S)
    await probing
    assert site.workers() == {A.peer_id}


async def test_a_lost_worker_that_stays_away_fails_no_more_than_once() -> None:
    site = await site_of(A)
    site.network.failing[A.peer_id] = PeerUnreachable("gone")
    for moment in range(0, 60, 3):
        await site.passing.pass_to(moment)
        await site.prober.probe_round()
    assert len(site.network.asked) == 20
    del site.network.failing[A.peer_id]
    await site.passing.pass_to(60)
    await site.prober.probe_round()
    assert site.worker(A).health.may_take(site.passing.now_s())
    site.table.note_lost(site.worker(A))
    assert site.worker(A).health.cooling_until_s == site.passing.now_s() + 2 * COOLDOWN_S


@pytest.mark.parametrize(
    ("round_trip_s", "timeout_s"),
    [
        (None, URGENT_TIMEOUT_S),
        (0.01, URGENT_TIMEOUT_S),
        (0.25, 0.25 * ROUND_TRIPS),
        (0.4, MAX_URGENT_TIMEOUT_S),
        (1.4, MAX_URGENT_TIMEOUT_S),
    ],
)
def test_whoever_waits_for_a_probe_waits_longer_for_who_is_far_away_up_to_a_point(
    round_trip_s: float | None, timeout_s: float
) -> None:
    worker = Worker(capability(A))
    if round_trip_s is not None:
        worker.round_trip_s.note(round_trip_s, 0.0)
    assert urgent_timeout_s(worker) == timeout_s


def test_who_is_reached_through_relays_alone_has_time_for_a_hole_that_is_tried_in_vain() -> None:
    direct, circuit = "/ip4/20.1.1.1/tcp/1", f"/ip4/20.1.1.2/tcp/1/p2p/{B.peer_id}/p2p-circuit"
    for named, timeout_s in (
        ((direct,), TIMEOUT_S),
        ((circuit,), RELAYED_TIMEOUT_S),
        ((direct, circuit), TIMEOUT_S),
    ):
        addresses = tuple(f"{address}/p2p/{A.peer_id}" for address in named)
        assert first_timeout_s(Worker(capability(A, addresses=addresses))) == timeout_s


async def test_a_round_that_fails_is_not_the_last_one() -> None:
    site = await site_of(A)
    site.network.failing[A.peer_id] = KeyError("bug")  # type: ignore[assignment]
    probing = asyncio.create_task(site.prober.run(site.passing.sleep))
    await site.passing.pass_to(10)
    del site.network.failing[A.peer_id]
    await site.passing.pass_to(12)
    assert site.worker(A).heard_s > 10
    probing.cancel()
    await asyncio.wait([probing])


async def test_when_our_own_place_has_changed_who_was_lost_is_asked_at_once() -> None:
    """Given a gateway whose p2pd has died, so that its workers did not answer, then they are in use again as soon as it
    is back, and not with the next round."""
    site = await site_of(A, B)
    for each in (A, B):
        site.network.failing[each.peer_id] = PeerUnreachable("p2pd is gone")
    probing = asyncio.create_task(site.prober.run(site.passing.sleep))
    await turn()
    await site.passing.pass_to(1.25)
    assert site.workers() == set()
    site.network.failing.clear()
    await site.passing.pass_to(1.5)
    assert site.workers() == set()
    site.network.change()
    await turn()
    assert site.workers() == {A.peer_id, B.peer_id}
    assert site.passing.now_s() == 1.5
    probing.cancel()
    await asyncio.wait([probing])


async def test_a_look_at_our_own_place_that_fails_is_not_the_last_one() -> None:
    site = await site_of(A)
    site.network.failing[A.peer_id] = PeerUnreachable("p2pd is gone")
    site.network.change_fails = KeyError("bug")
    probing = asyncio.create_task(site.prober.run(site.passing.sleep))
    await turn()
    await site.passing.pass_to(1.25)
    site.network.failing.clear()
    site.network.change()
    await turn()
    assert site.workers() == {A.peer_id}
    assert site.passing.now_s() == 1.25
    probing.cancel()
    await asyncio.wait([probing])


async def test_in_a_large_network_few_of_those_that_have_served_nothing_are_asked() -> None:
    """Silent ones, lost ones and newcomers; whoever has served is asked as ever."""
    site = await announced(A, B, peer("c"))
    workers = crowd(site, ENOUGH_WORKERS + 60, lost=20)
    tried = [*workers[:3], *workers[40:47]]
    for worker in tried:
        worker.health.has_served = True
    site.passing.clock.advance(UNHEARD_S + 1)
    due = site.prober.due()
    assert {worker.peer_id for worker in tried} < {worker.peer_id for worker in due}
    assert len(due) == len(tried) + 2 * MAX_STRANGERS
    site.prober.meet_next()
    site.prober.meet_next()
    await site.passing.pass_to(site.passing.now_s())
    assert len(site.table.newcomers) == 3 - MAX_STRANGERS


# ---- how soon that tells

TICK_S = 0.25
ANNOUNCE_S = 10.0
"""How often workers announce themselves, and how busy they are: here as often as it would matter."""

CLOCKS_AHEAD_S = (0.0, 4.5, -15.0)
"""How much a worker's clock may differ: further ahead its records are refused, further behind they have expired."""

PHASES = tuple(product((0.0, 0.5, 1.0, 1.5), (0.0, 0.25, 0.5, 0.75)))
"""When the gateway first reads the directory, and when it first looks whom to probe."""


class Life:
    """A gateway and two workers over time. The first worker dies without a word and may come back."""

    def __init__(self, site: Site, refresh_at_s: float, probe_at_s: float, clock_ahead_s: float) -> None:
        self.site = site
        self._clock_ahead_s = clock_ahead_s
        self._rng = random.Random(1)
        self.is_dead = False
        self.requests = 0
        self.tasks = [
            self._start(0.0, self._announce(A)),
            self._start(5.0, self._announce(B)),
            self._start(refresh_at_s, self._refresh()),
            self._start(probe_at_s, site.prober.run(site.passing.sleep)),
        ]

    def _start(self, after_s: float, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def begin() -> None:
            await self.site.passing.sleep(after_s)
            await work

        return asyncio.create_task(begin())

    async def _announce(self, identity: Identity) -> None:
        while True:
            if identity is B or not self.is_dead:
                await self.site.say_load(identity, self._clock_ahead_s)
            await self.site.passing.sleep(ANNOUNCE_S)

    async def _refresh(self) -> None:
        while True:
            await self.site.table.refresh()
            await self.site.passing.sleep(CRAWL_INTERVAL_S)

    def die(self) -> None:
        self.is_dead = True
        self.site.network.silent.add(A.peer_id)

    def come_back(self) -> None:
        self.is_dead = False
        self.site.network.silent.discard(A.peer_id)

    def request(self) -> None:
        """One, wherever routing sends it; it fails at who is dead."""
        now_s = self.site.passing.now_s()
        choice = choose(self.site.table.roster, RouteQuery("tiny"), now_s, self._rng)
        assert choice is not None
        choice.worker.reserve(KEY, now_s)
        choice.worker.release(KEY)
        if choice.worker.peer_id == A.peer_id:
            self.requests += 1
            if self.is_dead:
                choice.worker.health.note_failure(now_s, "peer_lost")
                return
        choice.worker.health.note_success()

    def is_used(self) -> bool:
        return A.peer_id in self.site.workers() and self.site.worker(A).health.may_take(self.site.passing.now_s())

    async def pass_for(self, seconds: float) -> None:
        end_s = self.site.passing.now_s() + seconds
        while self.site.passing.now_s() < end_s:
            await self.tick()

    async def tick(self) -> None:
        await self.site.passing.pass_to(self.site.passing.now_s() + TICK_S)
        assert B.peer_id in self.site.workers(), "who lives is never lost"

    async def until(self, is_so: Callable[[], bool], limit_s: float) -> None:
        began_s = self.site.passing.now_s()
        while not is_so():
            await self.tick()
            assert self.site.passing.now_s() <= began_s + limit_s


@asynccontextmanager
async def life(refresh_at_s: float, probe_at_s: float, clock_ahead_s: float = 0.0) -> AsyncIterator[Life]:
    site = await site_of(A, B)
    for each in (A, B):
        site.worker(each).health.note_success()
    lived = Life(site, refresh_at_s, probe_at_s, clock_ahead_s)
    try:
        yield lived
    finally:
        for task in lived.tasks:
            task.cancel()
        await asyncio.gather(*lived.tasks, return_exceptions=True)


async def test_what_seems_to_come_from_the_future_may_be_as_old_as_the_last_refresh() -> None:
    site = await site_of(A)
    await site.say_load(A, 4.5)
    await site.table.refresh()
    assert site.worker(A).heard_s == site.passing.now_s() - CRAWL_INTERVAL_S


@pytest.mark.parametrize("clock_ahead_s", CLOCKS_AHEAD_S)
async def test_a_worker_that_dies_without_a_word_leaves_the_table_within_15_s(clock_ahead_s: float) -> None:
    for refresh_at_s, probe_at_s in PHASES:
        for lived_s in (30.0, 33.25):  # it dies right after it announced itself, or between
            async with life(refresh_at_s, probe_at_s, clock_ahead_s) as lived:
                await lived.pass_for(lived_s)
                assert lived.is_used()
                lived.die()
                await lived.until(lambda: A.peer_id not in lived.site.workers(), limit_s=15.0)


async def test_a_dead_worker_gets_no_request_after_its_first_failure_and_is_back_within_10_s() -> None:
    for (refresh_at_s, probe_at_s), away_s, restarts in product(PHASES, (1.0, 8.0, 40.0), (False, True)):
        async with life(refresh_at_s, probe_at_s) as lived:
            # Given two workers that are used, of which one dies.
            await lived.pass_for(12.0)
            lived.die()
            while not lived.requests or lived.is_used():
                lived.request()
            # When requests go on coming, then it gets none of them.
            lived.requests = 0
            gone_until_s = lived.site.passing.now_s() + away_s
            while lived.site.passing.now_s() < gone_until_s:
                await lived.tick()
                lived.request()
            assert lived.requests == 0
            # When it is back, by itself or as a new process, then it is used again.
            lived.come_back()
            if restarts:
                await lived.site.announce(A, protocols=SPOKEN)
            await lived.until(lived.is_used, limit_s=10.0)
            while not lived.requests:
                lived.request()
            assert lived.is_used()
