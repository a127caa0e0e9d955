"""The peer table: what the directory says, what this gateway has seen itself, and for how long a failure counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.peers import COOLDOWN_S, MAX_COOLDOWN_S, MAX_KNOWN_MODELS, PeerTable
from gateway.service import ModelEntry
from p2pnet.directory import Directory, entries_for
from p2pnet.identity import Identity
from p2pnet.memory_network import MemoryWorld
from p2pnet.network import Entry, Findings, Stream, StreamHandler
from p2pnet.records import seal
from tests.stories import DIGEST, NOW_MS, ManualClock, capability, card, peer

A, B = peer("a"), peer("b")
OTHER_DIGEST = "sha256:" + "cd" * 32


class CountedNetwork:
    """A gateway's network whose readings of the directory are counted, and fail when a test says so."""

    def __init__(self, world: MemoryWorld) -> None:
        self._inner = world.join(peer("gateway").peer_id)
        self.failing: BaseException | None = None
        self.fetches = 0
        self._fetched = asyncio.Event()

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    async def addresses(self) -> tuple[str, ...]:
        return await self._inner.addresses()

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._inner.handle(protocol, handler)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._inner.open_stream(peer_id, protocol, addresses)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._inner.store(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        self.fetches += 1
        self._fetched.set()
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

    async def wait_changed(self) -> None:
        await self._inner.wait_changed()

    async def close(self) -> None:
        await self._inner.close()


class Site:
    """A gateway's table in a world where workers announce when they are told to."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(self.clock)
        self.network = CountedNetwork(self.world)
        self.now_s = 100.0
        self.table = PeerTable(
            Directory(self.network, self.clock),
            now_s=lambda: self.now_s,
            unix_s=lambda: self.clock.now_ms / 1000,
            refresh_interval_s=0,
        )

    async def announce(self, identity: Identity, *models: str, **changes: Any) -> None:
        self.clock.advance(0.001)
        record = capability(identity, *models, **{"issued_ms": self.clock.now_ms} | changes)
        await self.world.join(identity.peer_id).store(entries_for(record, seal(record, identity)))

    def workers(self) -> dict[str, int]:
        return {candidate.peer_id: candidate.in_flight for candidate in self.table.candidates()}

    def cooling_s(self, identity: Identity) -> float:
        (until_s,) = (c.cooling_until_s for c in self.table.candidates() if c.peer_id == identity.peer_id)
        return max(0.0, until_s - self.now_s)


# ---- what the directory says


async def test_an_unread_table_is_empty() -> None:
    table = Site().table
    assert (table.candidates(), table.models(), table.has_refreshed, table.has_known("tiny")) == ([], [], False, False)


async def test_a_refresh_shows_who_is_there_now() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.announce(B, "tiny", "large")
    await site.table.refresh()
    assert site.table.has_refreshed
    assert set(site.workers()) == {A.peer_id, B.peer_id}
    await site.announce(A, "tiny", expires_ms=site.clock.now_ms + 300_000, is_online=False)
    await site.table.refresh()
    assert set(site.workers()) == {B.peer_id}


async def test_one_entry_per_model_over_all_its_workers() -> None:
    site = Site()
    await site.announce(A, models=(card("tiny"), card("large", context_length=9)))
    await site.announce(B, models=(card("tiny", context_length=2048, digest=OTHER_DIGEST),))
    await site.table.refresh()
    first_seen_s = site.clock.now_ms // 1000
    assert site.table.models() == [
        ModelEntry("large", first_seen_s, 1, 9, (DIGEST,)),
        ModelEntry("tiny", first_seen_s, 2, 2048, (DIGEST, OTHER_DIGEST)),
    ]


async def test_a_model_keeps_the_time_at_which_it_was_first_seen() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.table.refresh()
    for _ in range(3):
        site.clock.advance(50)
        await site.announce(A, "tiny")
        await site.table.refresh()
    (entry,) = site.table.models()
    assert entry.created_s == NOW_MS // 1000


async def test_a_model_that_has_gone_is_still_known() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.table.refresh()
    site.clock.advance(1000)
    await site.table.refresh()
    assert site.table.models() == []
    assert site.table.has_known("tiny")
    assert not site.table.has_known("large")


async def test_a_worker_that_generates_and_embeds_with_a_model_is_one_worker() -> None:
    site = Site()
    await site.announce(A, models=(card("tiny"), card("tiny", task="embed")))
    await site.table.refresh()
    assert [(entry.id, entry.workers) for entry in site.table.models()] == [("tiny", 1)]


async def test_names_that_somebody_invents_are_forgotten_but_not_those_that_run() -> None:
    site, per_record = Site(), 25
    await site.announce(B, "tiny")
    rounds = MAX_KNOWN_MODELS // per_record + 2
    for turn in range(rounds):
        await site.announce(A, *(f"{turn}-{number}" for number in range(per_record)))
        await site.table.refresh()
    known = [turn for turn in range(rounds) if site.table.has_known(f"{turn}-0")]
    assert known == list(range(rounds - len(known), rounds))
    assert 0 < MAX_KNOWN_MODELS - len(known) * per_record < 2 * per_record
    assert site.table.has_known("tiny")


async def test_a_look_up_adds_what_the_last_refresh_did_not_show() -> None:
    site = Site()
    await site.announce(A, "tiny")
    await site.table.refresh()
    await site.announce(B, "large")
    await site.table.look_up("large")
    assert set(site.workers()) == {A.peer_id, B.peer_id}
    assert [entry.id for entry in site.table.models()] == ["large", "tiny"]
    await site.table.look_up("unheard-of")
    assert set(site.workers()) == {A.peer_id, B.peer_id}


async def test_it_stays_fresh_though_the_directory_fails_at_times() -> None:
    site = Site()
    await site.announce(A, "tiny")
    refreshing = asyncio.create_task(site.table.keep_fresh())
    for failure in (OSError("p2pd has gone"), KeyError("bug"), TimeoutError(), IndexError()):
        await site.network.fetched(2)
        site.network.failing = failure
        await site.network.fetched(3)
        assert set(site.workers()) == {A.peer_id}
        site.network.failing = None
    await site.announce(B, "tiny")
    await site.network.fetched(2)
    assert set(site.workers()) == {A.peer_id, B.peer_id}
    refreshing.cancel()
    await asyncio.wait([refreshing])
    assert refreshing.cancelled()


# ---- what this gateway has seen


async def table_of(*identities: Identity) -> Site:
    site = Site()
    for identity in identities:
        await site.announce(identity, "tiny")
    await site.table.refresh()
    return site


async def test_requests_in_flight_are_counted_by_worker() -> None:
    site = await table_of(A, B)
    with ExitStack() as requests:
        for _ in range(3):
            requests.enter_context(site.table.in_flight(A.peer_id))
        with site.table.in_flight(B.peer_id):
            assert site.workers() == {A.peer_id: 3, B.peer_id: 1}
        assert site.workers() == {A.peer_id: 3, B.peer_id: 0}
    assert site.workers() == {A.peer_id: 0, B.peer_id: 0}


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, GeneratorExit])
async def test_a_request_that_fails_is_no_longer_in_flight(error: type[BaseException]) -> None:
    site = await table_of(A)
    with pytest.raises(error), site.table.in_flight(A.peer_id):
        raise error
    assert site.workers() == {A.peer_id: 0}


async def test_requests_in_flight_survive_a_refresh_that_loses_their_worker() -> None:
    site = await table_of(A)
    with site.table.in_flight(A.peer_id):
        site.clock.advance(1000)
        await site.table.refresh()
        assert site.workers() == {}
        await site.announce(A, "tiny")
        await site.table.refresh()
        assert site.workers() == {A.peer_id: 1}


async def test_each_failure_in_a_row_cools_for_twice_as_long_up_to_a_limit() -> None:
    site = await table_of(A, B)
    for pause_s in (2, 4, 8, 16, 32, 60, 60, 60):
        site.table.note_failure(A.peer_id)
        assert site.cooling_s(A) == pause_s
        site.now_s += pause_s
        assert site.cooling_s(A) == 0
    assert (COOLDOWN_S, MAX_COOLDOWN_S) == (2, 60)
    assert site.cooling_s(B) == 0


async def test_a_worker_may_fail_any_number_of_times() -> None:
    # The only worker of a model is asked though it cools, with each request anew.
    site = await table_of(A)
    for _ in range(3000):
        site.table.note_failure(A.peer_id)
    assert site.cooling_s(A) == MAX_COOLDOWN_S


async def test_a_success_ends_the_cooling_and_its_history() -> None:
    site = await table_of(A)
    for _ in range(3):
        site.table.note_failure(A.peer_id)
    site.table.note_success(A.peer_id)
    assert site.cooling_s(A) == 0
    site.table.note_failure(A.peer_id)
    assert site.cooling_s(A) == COOLDOWN_S
    site.table.note_success(B.peer_id)


async def test_a_refresh_keeps_the_failures_of_who_stays_and_forgets_those_of_who_goes() -> None:
    site = await table_of(A)
    site.table.note_failure(A.peer_id)
    await site.table.refresh()
    assert site.cooling_s(A) == COOLDOWN_S
    site.clock.advance(1000)
    await site.table.refresh()
    await site.announce(A, "tiny")
    await site.table.refresh()
    assert site.cooling_s(A) == 0
