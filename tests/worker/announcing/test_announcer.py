"""The announcer: what it puts into the directory, when, and that nothing the network does to it silences it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from p2pnet.config import AGENT, DirectoryConfig
from p2pnet.directory import Directory, entries_for, validator
from p2pnet.errors import PeerUnreachable
from p2pnet.messages import Load, Measure
from p2pnet.model_shards import FULL_SHARD, ROOMY_SHARD, shard_key, shard_on
from p2pnet.network.dial_addresses import MAX_ADDRESSES
from p2pnet.network.interface import Clock, Entry, Findings, Stream, StreamHandler
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import MAX_PARTS, CapabilityRecord, IncompleteModel, ModelCard, Record, open_record, seal
from p2pnet.worker.announcing.announcer import LOOK_ABOVE_EVERY, MODELS_INTERVAL_S, Announcer
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from tests.stories import DIGEST, ManualClock, address_of, capability, card, peer, settle
from tests.worker.scripted import Scripted

WORKER = peer("worker")

NEVER = DirectoryConfig()
"""Intervals of ten seconds and more: no repetition falls into a test."""

AT_ONCE = DirectoryConfig(capability_lifetime_s=0.003)
"""Repeats each millisecond."""


class FlakyNetwork:
    """A peer of a MemoryWorld whose stores can fail, and are counted. Addresses are what a test sets."""

    def __init__(self, world: MemoryWorld, now_ms: Clock) -> None:
        self._inner = world.join(WORKER.peer_id)
        self.failing: BaseException | None = None
        self.refusing = False
        self.attempts = 0
        self.sequences: list[int] = []
        self.visible: tuple[str, ...] = (address_of(WORKER),)
        self.change = self._inner.change
        self._now_ms = now_ms
        self._attempted = asyncio.Event()

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    @property
    def is_direct(self) -> bool:
        return True

    async def record_addresses(self) -> tuple[str, ...]:
        return self.visible

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        await self._inner.handle(protocol, handler)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._inner.open_stream(peer_id, protocol, addresses)

    async def store(self, entries: Sequence[Entry]) -> int:
        self.attempts += 1
        self.sequences.append(open_record(entries[0].value, self._now_ms()).sequence)
        self._attempted.set()
        if self.failing is not None:
            raise self.failing
        if self.refusing:
            return 0
        return await self._inner.store(entries)

    async def attempted(self, more: int) -> None:
        """Wait until this many more stores have been tried."""
        wanted = self.attempts + more
        async with asyncio.timeout(10):
            while self.attempts < wanted:
                self._attempted.clear()
                await self._attempted.wait()

    async def fetch(self, keys: Sequence[str]) -> Findings:
        return await self._inner.fetch(keys)

    def held(self, key: str) -> int:
        return self._inner.held(key)

    async def wait_changed(self) -> None:
        await self._inner.wait_changed()

    async def close(self) -> None:
        await self._inner.close()


class Ticks:
    """The announcer's sleep: the watch over its models goes on when a test says so, the rest takes its time."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if seconds == MODELS_INTERVAL_S:
            await self._next.wait()
            self._next.clear()
        else:
            await asyncio.sleep(seconds)

    def tick(self) -> None:
        self._next.set()


class Site:
    """A worker's announcer in a world of its own, and a reader there."""

    def __init__(self, config: DirectoryConfig = NEVER) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.network = FlakyNetwork(self.world, self.clock)
        self.reader = Directory(self.world.join(peer("gateway").peer_id), self.clock)
        self.backend = Scripted(models=(card("tiny"),))
        self.catalogue = Catalogue([self.backend])
        self.meter = LoadMeter(4, self.catalogue, self.clock, lambda: self.clock.now_ms / 1000)
        self.ticks = Ticks()
        self.announcer = self.restarted(config)

    def restarted(self, config: DirectoryConfig = NEVER) -> Announcer:
        """The announcer of the same worker, started anew: it remembers nothing."""
        return Announcer(
            self.network, WORKER, self.catalogue.cards, self.meter, self.clock, config, self.ticks.sleep, "anna-laptop"
        )

    async def record(self) -> CapabilityRecord | None:
        found = await self.reader.workers()
        assert found == await self.reader.workers_of("tiny")
        return found[0] if found else None

    def stored(self) -> list[Record]:
        values = [value for by_subkey in self.world.values.values() for value in by_subkey.values()]
        return [open_record(value.value, self.clock.now_ms) for value in values]


async def test_the_first_announcement_says_everything() -> None:
    site = Site()
    assert await site.announcer.start() is True
    record = await site.record()
    assert record == CapabilityRecord(
        peer_id=WORKER.peer_id,
        sequence=site.clock.now_ms,
        issued_ms=site.clock.now_ms,
        expires_ms=site.clock.now_ms + 180_000,
        models=(card("tiny"),),
        addresses=(address_of(WORKER),),
        protocols=("/p2pnet/generate/1", "/p2pnet/status/1", "/p2pnet/watch/1"),
        slots=4,
        is_online=True,
        agent=AGENT,
        name="anna-laptop",
        load=Load(0, 0, 4, site.clock.now_ms),
    )
    await site.announcer.stop()


async def test_it_repeats_itself_for_as_long_as_it_runs() -> None:
    site = Site(AT_ONCE)
    await site.announcer.start()
    for _ in range(3):
        before = await site.record()
        assert before is not None
        site.clock.advance(0.001)
        await site.network.attempted(2)
        after = await site.record()
        assert after is not None
        assert after.sequence > before.sequence
        assert after.expires_ms > before.expires_ms
    await site.announcer.stop()


async def test_it_announces_again_at_a_third_of_each_lifetime() -> None:
    config = DirectoryConfig()
    assert config.capability_interval_s * 3 == config.capability_lifetime_s


async def test_its_load_follows_the_meter() -> None:
    site = Site()
    with site.meter.slot("tiny"), site.meter.slot("tiny") as place:
        site.clock.advance(2)
        place.note_tokens(1)
        await site.announcer.start()
    record, now_ms = await site.record(), site.clock.now_ms
    assert record is not None
    assert record.load == Load(1, 1, 4, now_ms, first_token_s=Measure(2.0, now_ms))
    await site.announcer.stop()


async def test_a_changed_address_is_announced_at_once() -> None:
    site = Site()
    await site.announcer.start()
    await asyncio.sleep(0)
    site.clock.advance(1)
    circuit = f"/ip4/203.0.113.9/tcp/1/p2p/{peer('relay').peer_id}/p2p-circuit/p2p/{WORKER.peer_id}"
    site.network.visible = (circuit,)
    site.network.change()
    await settle(lambda: site.network.attempts == 2)
    record = await site.record()
    assert record is not None and record.addresses == (circuit,)
    await site.announcer.stop()


async def test_a_changed_address_that_nobody_took_is_announced_again_soon() -> None:
    pauses_s: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses_s.append(seconds)
        is_far = seconds in (NEVER.capability_interval_s, MODELS_INTERVAL_S)
        await (asyncio.Event().wait() if is_far else asyncio.sleep(0))

    site = Site()
    announcer = Announcer(site.network, WORKER, site.catalogue.cards, site.meter, site.clock, NEVER, sleep)
    await announcer.start()
    circuit = f"/ip4/203.0.113.9/tcp/1/p2p/{peer('relay').peer_id}/p2p-circuit/p2p/{WORKER.peer_id}"
    site.network.visible, site.network.refusing = (circuit,), True
    site.network.change()
    await settle(lambda: 8.0 in pauses_s)
    site.network.refusing = False
    site.clock.advance(1)
    await site.network.attempted(1)
    record = await site.record()
    assert record is not None and record.addresses == (circuit,)
    await announcer.stop()


async def test_a_changed_model_is_announced_with_a_changed_address() -> None:
    site = Site()
    await site.announcer.start()
    await asyncio.sleep(0)
    site.clock.advance(1)
    site.backend.models = (card("tiny"), card("large"))
    site.network.change()
    await settle(lambda: site.network.attempts == 2)
    assert [found.peer_id for found in await site.reader.workers_of("large")] == [WORKER.peer_id]
    await site.announcer.stop()


async def test_a_driver_says_which_layers_are_missing_and_no_more_once_they_are_there() -> None:
    site = Site()
    lacks = [IncompleteModel("large", DIGEST, 24, gaps) for gaps in (((0, 24),), ((12, 24),))]
    incomplete = (lacks[0],)
    announcer = Announcer(
        site.network,
        WORKER,
        site.catalogue.cards,
        site.meter,
        site.clock,
        NEVER,
        site.ticks.sleep,
        incomplete=lambda: incomplete,
    )
    site.backend.models = ()
    await announcer.start()
    for attempt, (models, now) in enumerate([((), lacks[:1]), ((), lacks[1:]), ((card("large"),), [])], 1):
        site.backend.models, incomplete = models, tuple(now)
        site.clock.advance(1)
        site.ticks.tick()
        await settle(lambda attempt=attempt: site.network.attempts == attempt)
        (record,) = await site.reader.workers()
        assert (record.models, record.incomplete) == (models, incomplete)
    site.backend.models = ()
    site.clock.advance(1)
    site.ticks.tick()
    await settle(lambda: site.network.attempts == 4)
    assert await site.reader.workers() == ()
    await announcer.stop()


async def test_more_addresses_than_a_record_holds_are_left_out() -> None:
    site = Site()
    site.network.visible = tuple(f"/ip4/203.0.113.7/tcp/{port}/p2p/{WORKER.peer_id}" for port in range(1, 41))
    assert await site.announcer.start() is True
    record = await site.record()
    assert record is not None and record.addresses == site.network.visible[:MAX_ADDRESSES]
    await site.announcer.stop()


async def test_sequences_grow_though_the_clock_stands_still_or_goes_back() -> None:
    site = Site()
    await site.announcer.start()
    await asyncio.sleep(0)
    for seconds in (0.0, 1.0, -0.5, 0.0):
        site.clock.advance(seconds)
        site.network.change()
        await site.network.attempted(1)
    assert len(site.network.sequences) == 5
    assert site.network.sequences == sorted(set(site.network.sequences))
    assert all(map(site.announcer.has_issued, site.network.sequences))
    assert not site.announcer.has_issued(max(site.network.sequences) + 1)
    await site.announcer.stop()


# ---- withdrawing


async def test_stopping_withdraws() -> None:
    site = Site()
    await site.announcer.start()
    assert await site.record() is not None
    site.clock.advance(5)
    await site.announcer.stop()
    assert await site.record() is None
    assert await Directory(site.network, site.clock).workers() == ()


async def test_a_withdrawal_outlives_what_it_withdraws() -> None:
    site = Site()
    await site.announcer.start()
    announced = await site.record()
    assert announced is not None
    site.clock.advance(5)
    await site.announcer.stop()
    withdrawals = [record for record in site.stored() if isinstance(record, CapabilityRecord)]
    assert len(withdrawals) == 2
    assert all(not record.is_online and record.expires_ms > announced.expires_ms for record in withdrawals)


async def test_nothing_is_announced_after_the_withdrawal() -> None:
    site = Site(AT_ONCE)
    await site.announcer.start()
    site.clock.advance(1)
    await site.announcer.stop()
    attempts = site.network.attempts
    site.network.change()
    for _ in range(20):
        await asyncio.sleep(0)
    assert site.network.attempts == attempts
    assert len(asyncio.all_tasks()) == 1


async def test_stopping_in_the_same_millisecond_withdraws() -> None:
    site = Site()
    await site.announcer.start()
    await site.announcer.stop()
    assert await site.record() is None


@pytest.mark.parametrize("pause_s", [0.01, 1, 30, 59, 61, 500])
async def test_a_worker_that_is_started_again_is_found_at_once(pause_s: float) -> None:
    # Given a worker that has withdrawn, and a reader that knows it.
    site = Site()
    await site.announcer.start()
    site.clock.advance(20)
    await site.announcer.stop()
    assert await site.record() is None
    # When it is started again, as the same peer.
    site.clock.advance(pause_s)
    again = site.restarted()
    assert await again.start() is True
    # Then it is found, by those who know the withdrawal and by those who do not.
    assert await site.record() is not None
    assert len(await Directory(site.network, site.clock).workers()) == 1
    await again.stop()


async def test_a_worker_that_was_killed_and_started_again_is_found_at_once() -> None:
    site = Site()
    await site.announcer.start()
    site.clock.advance(1)
    again = site.restarted()
    assert await again.start() is True
    record = await site.record()
    assert record is not None and record.issued_ms == site.clock.now_ms
    await again.stop()


# ---- a network that fails


class StorageBroke(Exception):
    """What no announcer has heard of."""


FAILURES = [PeerUnreachable("nobody"), OSError("p2pd has gone"), StorageBroke(), TimeoutError(), KeyError("bug")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_a_failing_store_is_tried_again_with_the_next_turn(failure: BaseException) -> None:
    site = Site(AT_ONCE)
    await site.announcer.start()
    site.network.failing = failure
    await site.network.attempted(2)
    site.network.failing = None
    site.clock.advance(1)
    await site.network.attempted(2)
    record = await site.record()
    assert record is not None and record.issued_ms == site.clock.now_ms
    await site.announcer.stop()


async def test_a_failing_store_does_not_end_the_announcing_of_changes() -> None:
    site = Site()
    await site.announcer.start()
    site.network.failing = StorageBroke()
    await asyncio.sleep(0)
    site.network.change()
    await settle(lambda: site.network.attempts == 2)
    site.network.failing = None
    site.clock.advance(1)
    site.network.change()
    await settle(lambda: site.network.attempts == 3)
    record = await site.record()
    assert record is not None and record.issued_ms == site.clock.now_ms
    await site.announcer.stop()


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_stopping_ends_though_the_withdrawal_cannot_be_stored(failure: BaseException) -> None:
    site = Site()
    await site.announcer.start()
    site.network.failing = failure
    await site.announcer.stop()
    assert len(asyncio.all_tasks()) == 1


async def test_an_announcement_that_nobody_takes_is_said() -> None:
    # Given peers that hold a later record of this worker, from a clock that was ahead.
    site = Site()
    ahead = capability(WORKER, issued_ms=site.clock.now_ms + 4000)
    await site.network.store(entries_for(ahead, seal(ahead, WORKER)))
    assert await site.announcer.start() is False
    await site.announcer.stop()


async def test_addresses_that_do_not_fit_beside_the_models_are_left_out() -> None:
    site = Site()
    site.backend.models = tuple(card(f"a-model-with-a-rather-long-name-{number}") for number in range(20))
    site.network.visible = tuple(
        f"/ip4/203.0.113.7/udp/{port}/quic-v1/p2p/{WORKER.peer_id}" for port in range(4000, 4016)
    )
    assert await site.announcer.start() is True
    (found,) = await site.reader.workers()
    assert 1 <= len(found.addresses) < MAX_ADDRESSES
    assert found.addresses == site.network.visible[: len(found.addresses)]
    await site.announcer.stop()


async def test_models_that_do_not_fit_are_left_out_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    site.backend.models = tuple(card(f"{'a' * 110}{number:0>10}") for number in range(90))
    assert await site.announcer.start() is True
    (found,) = await site.reader.workers()
    fitting = len(found.models)
    assert 40 < fitting < 90
    assert {card.id for card in found.models} == {card.id for card in site.backend.models[:fitting]}
    site.clock.advance(1)
    site.network.change()
    await site.network.attempted(MAX_PARTS)
    (warning,) = [record.message for record in caplog.records if "do not hold all models" in record.message]
    assert warning.count("a" * 110) == 90 - fitting
    assert site.backend.models[fitting].id in warning
    await site.announcer.stop()


async def test_what_does_not_fit_into_one_record_goes_into_further_ones() -> None:
    site = Site()
    site.backend.models = tuple(card(f"{'a' * 60}-{number}", quantization="Q4_K_M") for number in range(26))
    assert await site.announcer.start() is True
    records = [record for record in site.stored() if isinstance(record, CapabilityRecord)]
    assert {(record.part, record.parts) for record in records} == {(0, 2), (1, 2)}
    assert all(len(record.addresses) == 1 for record in records)
    (found,) = await site.reader.workers()
    assert {card.id for card in found.models} == {card.id for card in site.backend.models}
    for model in (site.backend.models[0].id, site.backend.models[-1].id):
        assert await finders(site, model) == [True, True]
    # Fewer again: what is left is found, and the rest by nobody, though the second record still lies there.
    first, last = site.backend.models[0].id, site.backend.models[-1].id
    await follow(site, last)
    assert await finders(site, last) == [True, True]
    assert await finders(site, first) == [False, False]
    await site.announcer.stop()
    assert await site.reader.workers() == ()
    assert await finders(site, last) == [False, False]


# ---- models that come and go


async def follow(site: Site, *models: str, stores: int = 1) -> None:
    """The models change, and the announcer looks."""
    site.clock.advance(1)
    site.backend.models = tuple(map(card, models))
    attempts = site.network.attempts
    site.ticks.tick()
    await settle(lambda: site.network.attempts == attempts + stores)
    for _ in range(5):
        await asyncio.sleep(0)
    assert site.network.attempts == attempts + stores


async def finders(site: Site, model: str) -> list[bool]:
    """Whether the worker is found under a model: by a reader that has followed it, and by one that knows nothing."""
    newcomer = Directory(site.world.join(peer("newcomer").peer_id), site.clock)
    await site.reader.workers()
    return [bool(await reader.workers_of(model)) for reader in (site.reader, newcomer)]


async def test_models_are_announced_within_a_second_as_they_come() -> None:
    site = Site()
    await site.announcer.start()
    await follow(site, "tiny", "large")
    assert await finders(site, "large") == [True, True]
    assert await finders(site, "tiny") == [True, True]
    record = await site.record()
    assert record is not None and record.load is not None and record.load.slots == 8
    await site.announcer.stop()


async def test_a_model_that_goes_is_found_by_nobody_and_its_worker_is() -> None:
    site = Site()
    site.backend.models = (card("tiny"), card("large"))
    await site.announcer.start()
    await follow(site, "tiny")
    assert await finders(site, "large") == [False, False]
    assert await finders(site, "tiny") == [True, True]
    record = await site.record()
    assert record is not None and record.withdrawn == ("large",)
    # When it comes back, then it is found again.
    await follow(site, "large", "tiny")
    assert await finders(site, "large") == [True, True]
    record = await site.record()
    assert record is not None and record.withdrawn == ()
    await site.announcer.stop()


async def test_one_model_takes_the_place_of_another() -> None:
    site = Site()
    await site.announcer.start()
    await follow(site, "large")
    assert await finders(site, "tiny") == [False, False]
    assert await finders(site, "large") == [True, True]
    await site.announcer.stop()
    assert await finders(site, "large") == [False, False]


async def test_a_model_is_withdrawn_for_as_long_as_its_records_live() -> None:
    site = Site()
    site.backend.models = (card("tiny"), card("large"))
    await site.announcer.start()
    for pause_s, withdrawn in ((0, ("large",)), (100, ("large",)), (79, ("large",)), (1, ()), (10, ())):
        site.clock.advance(pause_s)
        site.backend.models = (card("tiny"),)
        site.network.change()
        await site.network.attempted(1)
        (record,) = await site.reader.workers()
        assert record.withdrawn == withdrawn
        assert await finders(site, "large") == [False, False]
        site.clock.advance(0.001)
    await site.announcer.stop()


async def test_nothing_changes_nothing_is_said() -> None:
    site = Site()
    await site.announcer.start()
    for _ in range(5):
        await follow(site, "tiny", stores=0)
    await site.announcer.stop()


async def test_a_model_whose_card_changes_is_announced() -> None:
    site = Site()
    await site.announcer.start()
    site.backend.models = (card("tiny", is_cold=True),)
    site.clock.advance(1)
    site.ticks.tick()
    await site.network.attempted(1)
    record = await site.record()
    assert record is not None and record.models == (card("tiny", is_cold=True),)
    await site.announcer.stop()


async def test_a_worker_without_models_is_withdrawn_and_stays_up() -> None:
    # Given a worker whose upstream goes away, and with it all models.
    site = Site()
    await site.announcer.start()
    await follow(site)
    assert await finders(site, "tiny") == [False, False]
    assert await site.record() is None
    # When nothing changes, then it says nothing more.
    site.network.change()
    await follow(site, stores=0)
    # When the upstream is back, then it is found again.
    await follow(site, "tiny", "new")
    assert await finders(site, "tiny") == [True, True]
    assert await finders(site, "new") == [True, True]
    await site.announcer.stop()


async def test_a_worker_that_starts_without_models_is_offline_until_one_comes() -> None:
    site = Site()
    site.backend.models = ()
    assert await site.announcer.start() is True
    assert await site.record() is None
    await follow(site, "tiny")
    assert await site.record() is not None
    await site.announcer.stop()
    assert await site.record() is None


async def test_changed_models_that_nobody_took_are_announced_again_soon() -> None:
    pauses_s: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses_s.append(seconds)
        await (asyncio.Event().wait() if seconds == NEVER.capability_interval_s else asyncio.sleep(0))

    site = Site()
    announcer = Announcer(site.network, WORKER, site.catalogue.cards, site.meter, site.clock, NEVER, sleep)
    await announcer.start()
    site.backend.models = (card("large"),)
    site.network.refusing = True
    await settle(lambda: 16.0 in pauses_s)
    site.network.refusing = False
    site.clock.advance(1)
    attempts = site.network.attempts
    await site.network.attempted(1)
    assert await finders(site, "large") == [True, True]
    assert site.network.attempts >= attempts + 1
    await announcer.stop()


@pytest.mark.parametrize("is_paused", [True, False])
async def test_a_pause_or_its_end_that_nobody_took_is_announced_again_soon(is_paused: bool) -> None:
    site = Site()
    await site.announcer.start(is_paused=not is_paused)
    site.clock.advance(1)
    site.network.refusing = True
    await site.announcer.set_paused(is_paused)
    site.network.refusing = False
    site.clock.advance(1)
    await follow(site, "tiny")
    assert await finders(site, "tiny") == [not is_paused, not is_paused]
    await site.announcer.stop()


async def test_a_look_at_the_models_that_fails_is_not_the_last_one() -> None:
    site = Site()
    bugs = [KeyError("bug")]

    def models() -> tuple[ModelCard, ...]:
        if len(site.backend.models) > 1 and bugs:
            raise bugs.pop()
        return site.catalogue.cards()

    announcer = Announcer(site.network, WORKER, models, site.meter, site.clock, NEVER, site.ticks.sleep)
    await announcer.start()
    site.backend.models = (card("tiny"), card("large"))
    site.ticks.tick()
    await settle(lambda: not bugs)
    site.clock.advance(1)
    attempts = site.network.attempts
    for _ in range(2):  # the pause, and the next look
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        site.ticks.tick()
        for _ in range(10):
            await asyncio.sleep(0)
    await settle(lambda: site.network.attempts == attempts + 1)
    assert await finders(site, "large") == [True, True]
    await announcer.stop()


async def test_what_nobody_took_is_announced_again_long_before_its_interval() -> None:
    pauses_s: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses_s.append(seconds)
        await asyncio.sleep(0)

    site = Site()
    announcer = Announcer(site.network, WORKER, site.catalogue.cards, site.meter, site.clock, NEVER, sleep)
    site.network.refusing = True
    assert await announcer.start() is False
    await settle(lambda: NEVER.capability_interval_s in pauses_s)
    before_s = pauses_s[: pauses_s.index(NEVER.capability_interval_s)]
    assert pauses_s[0] == 2.0
    assert {2.0, 4.0, 8.0, 16.0, 32.0} <= set(before_s)
    await announcer.stop()


async def test_a_record_has_no_more_bytes_than_its_peer_may_store() -> None:
    site = Site(DirectoryConfig(max_record_bytes=1000))
    site.backend.models = tuple(card(f"model-{number}") for number in range(20))
    await site.announcer.start()
    values = [value for by_subkey in site.world.values.values() for value in by_subkey.values()]
    assert values and max(len(value.value) for value in values) <= 1000
    await site.announcer.stop()


# ---- where others have filled a model's key


class CrowdedNetwork(FlakyNetwork):
    """Of some keys the peers that store them say that others lie there. `takes_levels`: whether anybody stores who
    knows of levels."""

    def __init__(self, world: MemoryWorld, now_ms: Clock) -> None:
        super().__init__(world, now_ms)
        self.others: dict[str, int] = {}
        self.takes_levels = True
        self.stored: list[str] = []

    async def store(self, entries: Sequence[Entry]) -> int:
        taken = [entry for entry in entries if self.takes_levels or "/shard/" not in entry.key]
        self.stored += [entry.key for entry in taken]
        return await super().store(taken) if taken else 0

    def held(self, key: str) -> int:
        return self.others.get(key, 0)


async def crowded() -> tuple[Site, CrowdedNetwork]:
    site = Site()
    network = CrowdedNetwork(site.world, site.clock)
    site.network = network
    site.announcer = site.restarted()
    return site, network


def on(level: int) -> str:
    return shard_key("tiny", level, shard_on(level, WORKER.peer_id))


async def again(site: Site) -> None:
    site.clock.advance(60)
    await site.announcer.set_paused(True)
    site.clock.advance(0.001)
    await site.announcer.set_paused(False)


async def test_where_a_models_key_is_full_it_is_announced_a_level_lower() -> None:
    site, network = await crowded()
    network.others = {on(0): FULL_SHARD, on(1): FULL_SHARD, on(2): FULL_SHARD - 1}
    assert await site.announcer.start()
    assert network.stored[1:] == [on(0), on(1), on(2)]
    # When others come there, too, then it has its place; and the higher levels are left alone.
    network.stored.clear()
    network.others[on(2)] = FULL_SHARD + 1
    await again(site)
    assert set(network.stored[1:]) == {on(2), network.stored[0]}
    await site.announcer.stop()


async def test_it_comes_back_up_when_there_is_room() -> None:
    site, network = await crowded()
    network.others = {on(0): FULL_SHARD}
    await site.announcer.start()
    network.others = {on(0): ROOMY_SHARD}
    for _ in range(LOOK_ABOVE_EVERY):
        await again(site)
    assert network.stored[-1] == on(1)
    network.others = {on(0): ROOMY_SHARD - 1}
    for _ in range(LOOK_ABOVE_EVERY):
        await again(site)
    assert network.stored[-1] == on(0)
    await site.announcer.stop()


async def test_where_nobody_stores_who_knows_of_levels_it_stays_on_the_models_own_key() -> None:
    """Among peers of an earlier version alone."""
    site, network = await crowded()
    network.others, network.takes_levels = {on(0): FULL_SHARD}, False
    assert await site.announcer.start()
    assert on(0) in network.stored
    await again(site)
    assert network.stored[-1] == on(0)
    await site.announcer.stop()


async def test_a_withdrawal_overwrites_the_place_on_a_lower_level() -> None:
    site, network = await crowded()
    network.others = {on(0): FULL_SHARD}
    await site.announcer.start()
    network.stored.clear()
    await site.announcer.stop()
    assert on(1) in network.stored
