"""A worker whose owner comes first: what the directory and its clients see of a pause."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

import pytest

from p2pnet.client import generate
from p2pnet.config import DirectoryConfig
from p2pnet.directory import Directory, validator
from p2pnet.errors import Draining
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.network.clock_watch import ClockState
from p2pnet.network.interface import Entry
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import CapabilityRecord, open_record
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.owner.schedule import Schedule
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, ask, peer, settle

WORKER = peer("worker")

NEVER = DirectoryConfig()
"""Intervals of ten seconds and more: no repetition falls into a test."""

AT_ONCE = DirectoryConfig(capability_lifetime_s=0.003)
"""Repeats each millisecond."""

CLOSED = Schedule.parse("mon 10:00-11:00")
SUNDAY = datetime(2026, 1, 4)


class HeldNetwork(MemoryNetwork):
    """A peer whose announcements a test can hold, at `gate`, before its addresses are known or before they are stored;
    or make fail."""

    def __init__(self, world: MemoryWorld) -> None:
        super().__init__(world, WORKER.peer_id)
        world.peers[WORKER.peer_id] = self
        self.gates = {"addresses": asyncio.Event(), "store": asyncio.Event()}
        for gate in self.gates.values():
            gate.set()
        self.waiting = 0
        self.stores = 0
        self.is_failing = False
        self._has_tried = asyncio.Event()

    @property
    def is_direct(self) -> bool:
        return True

    async def record_addresses(self) -> tuple[str, ...]:
        await self._pass("addresses")
        return await super().record_addresses()

    async def store(self, entries: Sequence[Entry]) -> int:
        await self._pass("store")
        self.stores += 1
        self._has_tried.set()
        if self.is_failing:
            raise OSError("p2pd has gone")
        return await super().store(entries)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait, for as many stores as it takes."""
        async with asyncio.timeout(10):
            while not is_so():
                self._has_tried.clear()
                await self._has_tried.wait()

    async def _pass(self, gate: str) -> None:
        self.waiting += 1
        await self.gates[gate].wait()
        self.waiting -= 1


class Site:
    """One worker, which echoes, and a client in a world of their own."""

    def __init__(self, owner: Owner | None = None, config: DirectoryConfig = NEVER) -> None:
        self.owner = owner or Owner()
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.network = HeldNetwork(self.world)
        self.client = self.world.join(peer("client").peer_id)
        self.may_go_on = asyncio.Event()
        self.begun: list[int] = []
        self._config = config

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        worker = await self.start()
        yield
        await worker.stop()
        await settle(lambda: len(asyncio.all_tasks()) == 1)
        assert await self.is_listed() is False

    async def start(self) -> Worker:
        backend = EchoBackend(gate=self._hold)
        return await Worker.start(self.network, WORKER, [backend], self.clock, directory=self._config, owner=self.owner)

    async def is_listed(self) -> bool:
        """Whether somebody finds the worker who has never looked before."""
        reader = Directory(self.client, self.clock)
        by_model, all_workers = await reader.workers_of("echo"), await reader.workers()
        assert by_model == all_workers
        return [record.peer_id for record in all_workers] == [WORKER.peer_id]

    def online(self) -> set[bool]:
        """What the records in the DHT say."""
        values = [value for by_subkey in self.world.values.values() for value in by_subkey.values()]
        records = [open_record(value.value, self.clock.now_ms, grace_ms=1 << 40) for value in values]
        return {record.is_online for record in records if isinstance(record, CapabilityRecord)}

    async def ask(self) -> str:
        events = [event async for event in generate(self.client, WORKER.peer_id, ask())]
        assert isinstance(events[0], Accepted)
        assert isinstance(events[-1], Finished)
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    async def _hold(self, index: int) -> None:
        self.begun.append(index)
        await self.may_go_on.wait()


async def test_a_pause_withdraws_refuses_what_comes_and_finishes_what_runs() -> None:
    # Given a worker that serves, and is in the middle of an answer.
    site = Site()
    async with site.serving():
        assert await site.is_listed()
        running = asyncio.create_task(site.ask())
        await settle(lambda: site.begun == [0])
        # When its owner pauses it.
        site.owner.toggle()
        # Then nobody finds it any more, who asks nevertheless is refused, and the answer is complete.
        with pytest.raises(Draining, match="the owner of this worker is using it"):
            await site.ask()
        await settle(lambda: site.online() == {False})
        assert not await site.is_listed()
        site.may_go_on.set()
        assert await running == "one two three"
        # When its owner resumes it, then it is found and serves.
        site.owner.toggle()
        await settle(lambda: site.online() == {True})
        assert await site.is_listed()
        assert await site.ask() == "one two three"


async def test_a_clock_that_jumps_withdraws_and_one_that_is_right_again_serves() -> None:
    # Given a worker in the middle of an answer.
    looked = asyncio.Event()

    async def sleep(_: float) -> None:
        looked.clear()
        await looked.wait()

    site = Site(Owner(sleep=sleep))
    async with site.serving():
        running = asyncio.create_task(site.ask())
        await settle(lambda: site.begun == [0])
        # When its clock jumps, as it sees and others say.
        site.network.clock = ClockState(3600.0, 5, 3600.0)
        looked.set()
        # Then it is withdrawn, refuses what comes, says why, and finishes what runs.
        await settle(lambda: site.online() == {False})
        with pytest.raises(Draining, match="the clock of this worker is wrong"):
            await site.ask()
        assert "clock is 3600 s ahead of those of 5 peers" in site.owner.state
        site.may_go_on.set()
        assert await running == "one two three"
        # When the clock is right again, or only others say that it is wrong, then it serves by itself.
        for clock in (ClockState(), ClockState(3600.0, 5)):
            site.network.clock = clock
            looked.set()
            await settle(lambda: site.online() == {True})
            assert await site.ask() == "one two three"


async def test_a_worker_outside_its_hours_starts_offline() -> None:
    site = Site(Owner(CLOSED, now=lambda: SUNDAY))
    async with site.serving():
        assert site.owner.is_paused
        assert site.online() == {False}
        assert not await site.is_listed()
        with pytest.raises(Draining):
            await site.ask()


async def test_starting_paused_overwrites_what_a_killed_run_has_announced() -> None:
    site = Site()
    first = await site.start()
    assert await site.is_listed()
    site.clock.advance(1)
    paused = Owner()
    paused.toggle()
    again = await Worker.start(site.network, WORKER, [EchoBackend()], site.clock, directory=NEVER, owner=paused)
    assert not await site.is_listed()
    paused.toggle()
    await settle(lambda: site.online() == {True})
    assert await site.is_listed()
    await again.stop()
    await first.stop()


async def test_a_paused_worker_stops() -> None:
    site = Site()
    async with site.serving():
        site.owner.toggle()
        await settle(lambda: site.online() == {False})
    assert site.online() == {False}


async def test_a_worker_that_is_paused_while_it_stops_stops() -> None:
    site = Site()
    worker = await site.start()
    running = asyncio.create_task(site.ask())
    await settle(lambda: site.begun == [0])
    stopping = asyncio.create_task(worker.stop())
    await settle(lambda: site.online() == {False})
    site.owner.toggle()
    site.owner.toggle()
    site.may_go_on.set()
    assert await running == "one two three"
    await stopping
    assert site.online() == {False}


async def test_a_pause_is_not_repeated_and_holds() -> None:
    """Nothing is stored for as long as it lasts, whatever else the network does."""
    site = Site()
    async with site.serving():
        site.owner.toggle()
        await settle(lambda: site.online() == {False})
        stores = site.network.stores
        for _ in range(3):
            site.clock.advance(60)
            site.network.change()
            for _ in range(20):
                await asyncio.sleep(0)
        assert site.network.stores == stores
        assert not await site.is_listed()


async def test_pausing_and_resuming_in_one_millisecond() -> None:
    """A record is only stored over one that expires earlier, and the clock stands still here."""
    site = Site()
    async with site.serving():
        for is_online in (False, True) * 4:
            site.owner.toggle()
            await settle(lambda is_online=is_online: site.online() == {is_online})  # type: ignore[misc]
            assert await site.is_listed() is is_online


@pytest.mark.parametrize("toggles", [1, 2, 3, 4])
@pytest.mark.parametrize("gate", ["addresses", "store"])
async def test_what_is_wanted_last_is_stored_last(gate: str, toggles: int) -> None:
    """Given an announcement on its way, when the owner changes his mind meanwhile, then his last word holds."""
    site = Site()
    async with site.serving():
        site.clock.advance(60)
        site.network.gates[gate].clear()
        site.network.change()
        await settle(lambda: site.network.waiting == 1)
        for _ in range(toggles):
            site.owner.toggle()
            for _ in range(20):
                await asyncio.sleep(0)
        site.network.gates[gate].set()
        is_online = toggles % 2 == 0
        await settle(lambda: site.network.waiting == 0 and site.online() == {is_online})
        assert await site.is_listed() is is_online


@pytest.mark.parametrize("seed", range(4))
async def test_a_pause_holds_beside_announcements_at_any_moment(seed: int) -> None:
    site, chance = Site(config=AT_ONCE), random.Random(seed)
    async with site.serving():
        for _ in range(50):
            site.owner.toggle()
            site.clock.advance(0.001)
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
            if chance.random() < 0.3:
                site.network.change()
        is_online = not site.owner.is_paused
        await settle(lambda: site.online() == {is_online})
        for _ in range(200):
            await asyncio.sleep(0)
            assert site.online() == {is_online}


async def test_a_withdrawal_that_fails_is_tried_again() -> None:
    site = Site(config=AT_ONCE)
    async with site.serving():
        site.network.is_failing = True
        site.owner.toggle()
        tried = site.network.stores
        await site.network.until(lambda: site.network.stores >= tried + 6)
        assert site.online() == {True}
        site.network.is_failing = False
        await site.network.until(lambda: site.online() == {False})
