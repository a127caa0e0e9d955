"""The peer table: what the directory says, what this gateway has seen itself, and what strangers' words may cost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.membership.crawl import CRAWL_INTERVAL_S, CRAWLED_WHOLE
from gateway.membership.gone import MAX_GONE
from gateway.membership.known_models import MAX_KNOWN_MODELS
from gateway.membership.look_ups import LOOK_UP_AGAIN_S, MAX_LOOKED_UP, WAITED_FOR_S
from gateway.membership.table import MAX_LOOK_UPS, PeerTable
from gateway.peers.health import COOLDOWN_S, State
from gateway.peers.worker import Worker
from p2pnet.directory import Directory, entries_for, model_key, validator
from p2pnet.identity import Identity
from p2pnet.messages import Load
from p2pnet.network.interface import Entry, Findings, Stream, StreamHandler
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import seal
from tests.stories import DIGEST, NOW_MS, ManualClock, capability, card, peer, settle

A, B = peer("a"), peer("b")
OTHER_DIGEST = "sha256:" + "cd" * 32
KEY = ("tiny", "generate")


class CountedNetwork:
    """A gateway's network whose readings of the directory are counted, can be held up, and fail when a test says so."""

    def __init__(self, world: MemoryWorld) -> None:
        self._inner = world.join(peer("gateway").peer_id)
        self.failing: BaseException | None = None
        self.keys: list[str] = []
        self.fetches = 0
        self.gate: asyncio.Event | None = None
        self.others = 0
        self._fetched = asyncio.Event()

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
        return await self._inner.open_stream(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        await self._inner.hang_up(peer_id)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._inner.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        self.fetches += 1
        self.keys += keys
        self._fetched.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failing is not None:
            raise self.failing
        return await self._inner.fetch(keys)

    async def fetched(self, more: int) -> None:
        """Wait until the directory was read this many times more."""
        wanted = self.fetches + more
        async with asyncio.timeout(10):
            while self.fetches < wanted:
                self._fetched.clear()
                await self._fetched.wait()

    def held(self, key: str) -> int:
        return self._inner.held(key) + self.others

    async def wait_changed(self) -> None:
        await self._inner.wait_changed()

    async def close(self) -> None:
        await self._inner.close()


class Site:
    """A gateway's table in a world where workers announce when they are told to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.network = CountedNetwork(self.world)
        self.changes = 0
        self.table = PeerTable(
            Directory(self.network, self.clock),
            now_s=self.now_s,
            unix_s=lambda: self.clock.now_ms / 1000,
            crawl_interval_s=0,
        )
        self.table.on_change = self._note_change
        self.table.meet = self._meet

    def now_s(self) -> float:
        return (self.clock.now_ms - NOW_MS) / 1000

    def _note_change(self) -> None:
        self.changes += 1

    async def _meet(self, newcomers: Sequence[Worker], enough: int) -> None:
        """Everybody answers."""
        for newcomer in newcomers:
            self.table.note_found(newcomer)

    async def refresh(self) -> None:
        """Read the directory, and meet whoever is new."""
        await self.table.refresh()
        await self.meet()

    async def meet(self) -> None:
        await self._meet(self.table.newcomers.next(1_000), 1_000)

    async def announce(self, identity: Identity, *models: str, **changes: Any) -> None:
        self.clock.advance(0.001)
        await self._store(identity, *models, **changes)

    async def _store(self, identity: Identity, *models: str, **changes: Any) -> None:
        record = capability(identity, *models, **{"issued_ms": self.clock.now_ms} | changes)
        await self.world.join(identity.peer_id).store(entries_for(record, seal(record, identity)))

    async def say_load(self, identity: Identity, clock_ahead_s: float = 0.0, **fields: Any) -> None:
        """As a worker does whose clock is ahead by so much, or behind."""
        self.clock.advance(0.001)
        its_ms = self.clock.now_ms + round(1000 * clock_ahead_s)
        await self._store(identity, issued_ms=its_ms, load=Load(1, sampled_ms=its_ms, **fields))

    def workers(self) -> set[str]:
        return {worker.peer_id for worker in self.table.workers}

    def lost(self) -> set[str]:
        return {worker.peer_id for worker in self.table.lost}

    def in_roster(self) -> set[str]:
        return {worker.peer_id for worker in self.table.roster.of(KEY)}

    def worker(self, identity: Identity) -> Worker:
        return next(w for w in (*self.table.workers, *self.table.lost) if w.peer_id == identity.peer_id)


async def site_of(*identities: Identity) -> Site:
    site = Site()
    for identity in identities:
        await site.announce(identity, "tiny")
    await site.refresh()
    return site


# ---- what the directory says


async def test_an_unread_table_is_empty() -> None:
    table = Site().table
    assert (table.workers, table.lost, table.models(), table.has_refreshed) == ((), (), [], False)
    assert not table.has_known("tiny")


async def test_a_refresh_shows_who_is_there_now() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.announce(B, "tiny", "large")
    await site.refresh()
    assert site.table.has_refreshed
    assert site.workers() == site.in_roster() == {A.peer_id, B.peer_id}
    await site.announce(A, "tiny", expires_ms=site.clock.now_ms + 300_000, is_online=False)
    await site.refresh()
    assert site.workers() == site.in_roster() == {B.peer_id}


async def test_one_entry_per_model_over_all_its_workers() -> None:
    site = Site()
    await site.announce(A, models=(card("tiny"), card("large", context_length=9)))
    await site.announce(B, models=(card("tiny", context_length=2048, digest=OTHER_DIGEST),))
    await site.refresh()
    first_seen_s = site.clock.now_ms // 1000
    entries = [(e.id, e.created_s, e.workers, e.context_length, e.digests) for e in site.table.models()]
    assert entries == [
        ("large", first_seen_s, 1, 9, (DIGEST,)),
        ("tiny", first_seen_s, 2, 2048, (DIGEST, OTHER_DIGEST)),
    ]


async def test_the_list_of_models_is_made_once_for_each_roster() -> None:
    site = await site_of(A)
    listed = site.table.models()
    await site.say_load(A)
    await site.refresh()
    assert site.table.models() is listed, "a load says nothing of models"
    await site.announce(A, "tiny", "large")
    await site.refresh()
    assert [entry.id for entry in site.table.models()] == ["large", "tiny"]
    site.table.note_lost(site.worker(A))
    assert site.table.models() == []


async def test_a_model_keeps_the_time_at_which_it_was_first_seen() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.refresh()
    for _ in range(3):
        site.clock.advance(50)
        await site.announce(A, "tiny")
        await site.refresh()
    (entry,) = site.table.models()
    assert entry.created_s == NOW_MS // 1000


async def test_a_model_that_has_gone_is_still_known() -> None:
    site = await site_of(A)
    site.clock.advance(1000)
    await site.refresh()
    assert site.table.models() == []
    assert site.table.has_known("tiny")
    assert not site.table.has_known("large")


async def test_a_worker_that_generates_and_embeds_with_a_model_is_one_worker() -> None:
    site = Site()
    await site.announce(A, models=(card("tiny"), card("tiny", task="embed")))
    await site.refresh()
    assert [(entry.id, entry.workers) for entry in site.table.models()] == [("tiny", 1)]


async def test_names_that_somebody_invents_are_forgotten_but_not_those_that_run_or_are_lost() -> None:
    site, per_record = Site(), 25
    await site.announce(B, "tiny")
    await site.announce(peer("c"), "away")
    await site.refresh()
    away = site.worker(peer("c"))
    site.table.note_lost(away)
    rounds = MAX_KNOWN_MODELS // per_record + 2
    for turn in range(rounds):
        await site.announce(A, *(f"{turn}-{number}" for number in range(per_record)))
        await site.refresh()
    known = [turn for turn in range(rounds) if site.table.has_known(f"{turn}-0")]
    assert known == list(range(rounds - len(known), rounds))
    assert 0 < MAX_KNOWN_MODELS - len(known) * per_record < 2 * per_record
    site.table.note_found(away)
    assert {"away", "tiny"} < {entry.id for entry in site.table.models()}


async def test_it_stays_fresh_though_the_directory_fails_at_times() -> None:
    site = await site_of(A)
    refreshing = asyncio.create_task(site.table.keep_fresh())
    for failure in (OSError("p2pd has gone"), KeyError("bug"), TimeoutError(), IndexError()):
        await site.network.fetched(2)
        site.network.failing = failure
        await site.network.fetched(3)
        assert site.workers() == {A.peer_id}
        site.network.failing = None
    await site.announce(B, "tiny")
    await site.network.fetched(4)
    await site.meet()
    assert site.workers() == {A.peer_id, B.peer_id}
    refreshing.cancel()
    await asyncio.wait([refreshing])
    assert refreshing.cancelled()


async def test_the_roster_is_made_anew_only_when_something_changed() -> None:
    site = await site_of(A)
    roster, changes = site.table.roster, site.changes
    for _ in range(3):
        await site.refresh()
        await site.table.look_up("tiny")
    assert (site.table.roster, site.changes) == (roster, changes)
    await site.announce(A, "tiny", "large")
    await site.refresh()
    assert site.table.roster is not roster
    assert site.table.roster.of(("large", "generate"))


# ---- what strangers ask for


async def test_a_look_up_adds_what_the_last_refresh_did_not_show() -> None:
    site = await site_of(A)
    await site.announce(B, "large")
    await site.table.look_up("large")
    assert site.workers() == {A.peer_id, B.peer_id}
    assert [entry.id for entry in site.table.models()] == ["large", "tiny"]
    assert not site.table.has_known("unheard-of")


async def test_a_name_is_looked_up_once_at_a_time_and_not_again_right_after() -> None:
    site = Site()
    site.network.gate = asyncio.Event()
    asking = [asyncio.create_task(site.table.look_up("large")) for _ in range(50)]
    await settle(lambda: site.network.fetches == 1)
    await site.announce(A, "large")
    site.network.gate.set()
    await asyncio.gather(*asking)
    assert site.network.fetches == 1
    assert site.workers() == {A.peer_id}
    await site.table.look_up("large")
    assert site.network.fetches == 1
    site.clock.advance(LOOK_UP_AGAIN_S)
    await site.table.look_up("large")
    assert site.network.fetches == 2


async def test_a_client_that_goes_takes_the_look_up_from_nobody() -> None:
    site = Site()
    await site.announce(A, "large")
    site.network.gate = asyncio.Event()
    first, second = (asyncio.create_task(site.table.look_up("large")) for _ in range(2))
    await settle(lambda: site.network.fetches == 1)
    first.cancel()
    await settle(lambda: site.network.fetches == 2)
    site.network.gate.set()
    await second
    assert site.workers() == {A.peer_id}


async def test_a_look_up_that_failed_is_not_remembered() -> None:
    site = Site()
    await site.announce(A, "large")
    site.network.failing = OSError("p2pd has gone")
    with pytest.raises(OSError, match="p2pd"):
        await site.table.look_up("large")
    site.network.failing = None
    await site.table.look_up("large")
    assert site.workers() == {A.peer_id}


async def test_only_so_many_names_are_looked_up_at_the_same_time() -> None:
    site = Site()
    site.network.gate = asyncio.Event()
    asking = [asyncio.create_task(site.table.look_up(f"name-{number}")) for number in range(10 * MAX_LOOK_UPS)]
    await settle(lambda: sum(task.done() for task in asking) == 9 * MAX_LOOK_UPS)
    assert site.network.fetches == MAX_LOOK_UPS
    site.network.gate.set()
    await asyncio.gather(*asking)
    await site.table.look_up("name-100")
    assert site.network.fetches == MAX_LOOK_UPS + 1


async def test_names_that_somebody_invents_are_cheap() -> None:
    site = await site_of(A)
    roster, changes = site.table.roster, site.changes
    for number in range(MAX_LOOKED_UP + 1):
        await site.table.look_up(f"name-{number}")
    assert (site.table.roster, site.changes) == (roster, changes)
    assert site.table.known_models() == ("tiny",)
    fetches = site.network.fetches
    await site.table.look_up("name-1")
    assert site.network.fetches == fetches
    await site.table.look_up("name-0")  # the oldest is forgotten: memory has a limit
    assert site.network.fetches == fetches + 1


# ---- lost, found, gone, back


async def test_who_is_lost_is_out_of_the_roster_until_it_is_found() -> None:
    site = await site_of(A, B)
    lost = site.worker(A)
    site.table.note_lost(lost)
    assert (site.workers(), site.lost(), site.in_roster()) == ({B.peer_id}, {A.peer_id}, {B.peer_id})
    assert lost.health.state(site.now_s()) is State.COOLING
    await site.refresh()
    assert site.lost() == {A.peer_id}
    site.table.note_found(lost)
    assert (site.workers(), site.lost()) == ({A.peer_id, B.peer_id}, set())
    assert site.worker(A) is lost
    assert lost.health.state(site.now_s()) is State.HEALTHY


async def test_who_has_served_and_is_lost_comes_back_when_it_announces_itself_anew() -> None:
    site = await site_of(A)
    lost = site.worker(A)
    lost.health.note_success()
    site.table.note_lost(lost)
    await site.announce(A, "tiny")
    await site.refresh()
    assert (site.workers(), site.lost()) == ({A.peer_id}, set())
    assert site.worker(A) is lost
    assert lost.health.may_take(site.now_s())


async def test_a_lost_stranger_may_announce_what_it_likes_until_it_answers() -> None:
    site = await site_of(A)
    lost = site.worker(A)
    site.table.note_lost(lost)
    await site.announce(A, "tiny", "large")
    await site.refresh()
    assert (site.workers(), site.lost()) == (set(), {A.peer_id})
    site.table.note_found(lost)
    assert site.workers() == {A.peer_id}
    assert {entry.id for entry in site.table.models()} == {"tiny", "large"}


async def test_a_look_up_does_not_bring_back_who_is_lost() -> None:
    site = await site_of(A)
    site.table.note_lost(site.worker(A))
    await site.table.look_up("tiny")
    assert (site.workers(), site.lost()) == (set(), {A.peer_id})


async def test_being_lost_twice_is_one_failure() -> None:
    site = await site_of(A)
    lost = site.worker(A)
    for _ in range(5):
        site.table.note_lost(lost)
        site.clock.advance(2 * COOLDOWN_S)
    site.table.note_found(lost)
    assert lost.health.may_take(site.now_s())
    site.table.note_lost(lost)
    assert lost.health.cooling_until_s == site.now_s() + 2 * COOLDOWN_S


async def test_whoever_is_found_that_was_not_lost_may_be_tried_sooner() -> None:
    site = await site_of(A)
    worker, changes = site.worker(A), site.changes
    worker.health.note_failure(site.now_s(), "peer_lost")
    site.table.note_found(worker)
    assert worker.health.may_take(site.now_s())
    assert site.changes == changes + 1  # who waits is told


async def test_requests_in_flight_are_counted_while_their_worker_is_lost_gone_and_back() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    worker.reserve(KEY, site.now_s())
    worker.reserve(KEY, site.now_s())
    site.table.note_lost(worker)
    worker.release(KEY)
    assert worker.in_flight == 1
    site.clock.advance(1000)
    await site.refresh()
    assert (site.workers(), site.lost()) == (set(), set())
    site.table.note_lost(worker)
    site.table.note_found(worker)
    assert (site.workers(), site.lost()) == (set(), set())
    await site.announce(A, "tiny")
    await site.refresh()
    assert site.worker(A) is worker
    assert worker.in_flight == 1
    worker.release(KEY)
    assert worker.in_flight == 0


async def test_who_has_gone_is_remembered_within_limits() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    worker.health.note_success()
    site.clock.advance(1000)
    await site.refresh()
    table = site.table
    for number in range(MAX_GONE):
        other = Worker(capability(peer(f"other {number}")))
        other.health.note_success()
        table._put_away(other)
    await site.announce(A, "tiny")
    await site.refresh()
    assert site.worker(A) is not worker


async def test_who_is_known_no_more_takes_nobodys_place() -> None:
    """An answer that was under way at a worker that has gone, and came back as another one, says nothing of that."""
    site = await site_of(A)
    old = Worker(site.worker(A).record)
    site.table.note_lost(old)
    assert site.workers() == {A.peer_id}
    site.table.note_lost(site.worker(A))
    site.table.note_found(old)
    assert site.lost() == {A.peer_id}


# ---- loads


async def test_a_load_is_noted_as_old_as_it_is() -> None:
    site = await site_of(A)
    await site.announce(A, load=Load(1, queued=2, sampled_ms=site.clock.now_ms))
    site.clock.advance(5)
    await site.refresh()
    worker = site.worker(A)
    assert worker.load is not None and worker.load.queued == 2
    assert worker.load_sampled_s == worker.heard_s == pytest.approx(site.now_s() - 5, abs=0.01)


@pytest.mark.parametrize("clock_ahead_s", [0.0, 0.1, 4.9])
async def test_a_load_that_was_read_before_says_nothing_new(clock_ahead_s: float) -> None:
    site = await site_of(A)
    site.clock.advance(1)
    await site.say_load(A, clock_ahead_s)
    await site.refresh()
    worker = site.worker(A)
    heard_s = worker.heard_s
    assert heard_s <= site.now_s()
    for _ in range(4):
        site.clock.advance(2)
        await site.refresh()
    assert worker.heard_s == heard_s
    await site.say_load(A, clock_ahead_s)
    await site.refresh()
    assert worker.heard_s == pytest.approx(site.now_s() - (CRAWL_INTERVAL_S if clock_ahead_s else 0.0), abs=0.01)


async def test_a_worker_whose_clock_is_behind_is_not_heard_of_less_than_it_was() -> None:
    site = await site_of(A)
    worker = site.worker(A)
    heard_s = worker.heard_s = site.now_s()
    worker.note_load(Load(running=7), site.now_s())
    site.clock.advance(21)
    await site.say_load(A, -20)
    await site.refresh()
    assert worker.heard_s > heard_s
    worker.heard_s = heard_s = site.now_s()
    worker.note_load(Load(running=8), site.now_s())
    await site.say_load(A, -19)
    await site.refresh()
    assert (worker.heard_s, worker.load) == (heard_s, Load(running=8))


async def test_a_load_without_a_time_is_from_long_ago() -> None:
    site = await site_of(A)
    await site.announce(A, load=Load(3))
    await site.refresh()
    worker = site.worker(A)
    assert worker.load == Load(3)
    assert worker.heard_s < -1e6


async def test_a_worker_that_comes_says_how_busy_it_is() -> None:
    site = Site()
    await site.say_load(A)
    await site.refresh()
    assert site.worker(A).load == Load(1, sampled_ms=site.clock.now_ms)


async def test_a_load_of_who_is_lost_is_nobodys() -> None:
    site = await site_of(A)
    site.table.note_lost(site.worker(A))
    await site.say_load(A)
    await site.refresh()
    assert site.worker(A).load is None


# ---- what clients ask for, and what the network has


async def test_what_a_client_asks_for_is_looked_up_by_itself() -> None:
    site = await site_of(A)
    looking = asyncio.create_task(site.table.keep_looking_up())
    site.table.want("large")
    await site.network.fetched(1)
    assert site.network.keys[-1] == model_key("large")
    # When a request waits for it and a worker comes, then it is in use two seconds later, though no request asks.
    site.table.waited_for = lambda: ("large",)
    await site.announce(B, "large")
    site.clock.advance(WAITED_FOR_S)
    await site.network.fetched(1)
    await settle(lambda: B.peer_id in site.workers())
    looking.cancel()
    await asyncio.wait([looking])


async def test_how_much_of_a_large_network_is_known_is_said() -> None:
    site = await site_of(A, B)
    site.network.others = 1_000
    assert (site.table.known, site.table.announced) == (2, 2)  # so few are all that were found: it is read whole
    for number in range(CRAWLED_WHOLE):
        await site.announce(peer(f"{number}"), "tiny")
    await site.refresh()
    assert (site.table.known, site.table.announced) == (CRAWLED_WHOLE + 2, 16_000 + CRAWLED_WHOLE + 2)
