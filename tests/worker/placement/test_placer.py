"""Machines that take layers by themselves, in a memory world: who comes, who goes, and who moves then."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from p2pnet.directory import Directory, validator
from p2pnet.errors import Draining, P2PNetError, UsageError
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import StageRecord
from p2pnet.stage_messages import StageOpen, StageReady, StageRefused
from p2pnet.wire.stage_frames import STAGE_PROTOCOL
from p2pnet.worker.placement.choosing import Span
from p2pnet.worker.placement.placer import CLAIM_S, LOOK_S, Allotment, Placer
from p2pnet.worker.stages.announcing import StageAnnouncer
from p2pnet.worker.stages.stage import Stage, StageModel
from tests.stories import DIGEST, ManualClock, peer, settle
from tests.worker.stages.stage_swarm import CONTEXT, WIDTH, AddOne, Driver, asleep, ticket_of

LAYERS = 12


class LateDirectory(Directory):
    """Says once more what was so, when a test has it do so."""

    late: tuple[StageRecord, ...] | None = None

    async def placed(self, digest: str) -> tuple[StageRecord, ...]:
        if self.late is not None:
            found, self.late = self.late, None
            return found
        return await super().placed(digest)


class Machine:
    """One that takes so many layers. `step_ms` is what each stage of it measures, `fails` are spans that it lacks."""

    def __init__(self, story: Story, name: str, length: int, step_ms: float) -> None:
        self.story = story
        self.identity = peer(name)
        self.network = story.world.join(self.identity.peer_id)
        self.directory = LateDirectory(self.network, story.clock)
        self.step_ms = step_ms
        self.loaded: list[Span] = []
        self.fails: set[Span] = set()
        self.refusal: P2PNetError | None = None
        self.announcer = StageAnnouncer(self.network, self.identity, story.clock, sleep=asleep)
        self.placer = Placer(
            *(self.identity, self.directory, Allotment(DIGEST, LAYERS, length), self.open, self.announcer),
            *(story.clock, 5.0),
            refusal=lambda: self.refusal,
            sleep=story.sleep,
            rng=random.Random(1),
        )

    async def open(self, span: Span, announcer: StageAnnouncer) -> Stage:
        self.loaded.append(span)
        if span in self.fails:
            raise UsageError("These layers are not here.", "Download them.")
        model = StageModel(AddOne(), DIGEST, *span, LAYERS, WIDTH, "float32", CONTEXT, 1024, self.step_ms)
        return await Stage.start(
            *(self.network, self.identity, self.directory, model, self.story.clock),
            refusal=lambda: self.refusal,
            sleep=asleep,
            announcer=announcer,
        )


class Story:
    """Time passes where a claim waits, and else when a test says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.reader = Directory(self.world.join(peer("reader").peer_id), self.clock)
        self.closing = AsyncExitStack()
        self.slept: list[float] = []
        self.claims = asyncio.Event()
        self.claims.set()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if seconds != CLAIM_S:
            await asleep(seconds)
        self.clock.advance(0.01)
        await self.claims.wait()

    def machine(self, name: str, length: int, step_ms: float = 50.0) -> Machine:
        machine = Machine(self, name, length, step_ms)
        self.closing.push_async_callback(machine.network.kill)
        self.closing.push_async_callback(machine.placer.stop)
        return machine

    async def start(self, name: str, length: int, step_ms: float = 50.0) -> Machine:
        machine = self.machine(name, length, step_ms)
        await machine.placer.start()
        self.clock.advance(0.01)
        return machine

    async def look(self, machine: Machine) -> None:
        self.clock.advance(0.01)
        await machine.placer.look()
        self.clock.advance(0.01)

    async def seen(self) -> dict[str, Span]:
        """Which stage has which layers, as drivers see it."""
        return {record.peer_id: (record.first, record.last) for record in await self.reader.stages_of(DIGEST)}

    async def placed(self) -> list[StageRecord]:
        return sorted(await self.reader.placed(DIGEST), key=lambda record: record.first)


@pytest.fixture
def story() -> Story:
    return Story()


async def test_two_machines_make_a_chain_and_the_third_helps_the_slower_one(story: Story) -> None:
    one = await story.start("one", 6, 20.0)
    two = await story.start("two", 6, 80.0)
    three = await story.start("three", 6, 20.0)
    assert await story.seen() == {
        one.identity.peer_id: (0, 6),
        two.identity.peer_id: (6, 12),
        three.identity.peer_id: (6, 12),
    }
    for machine in (one, two, three):
        await story.look(machine)
        assert len(machine.loaded) == 1
    await story.closing.aclose()
    assert await story.seen() == {}


async def test_where_one_leaves_another_moves_and_its_drivers_are_told(story: Story) -> None:
    """Two have the second half. One of them takes the first when that has nobody left; its drivers go to the other."""
    one = await story.start("one", 6, 20.0)
    two = await story.start("two", 6, 80.0)
    three = await story.start("three", 6, 20.0)
    driver = await opened(story, three, 6, 12)
    await one.placer.stop()
    moving = asyncio.create_task(story.look(three))
    told = await driver.told()
    assert isinstance(told, StageRefused)
    assert (told.code, told.step) == ("draining", None)
    assert await story.seen() == {two.identity.peer_id: (6, 12)}
    assert [(record.first, record.is_ready) for record in await story.placed()] == [(0, False), (6, True)]
    driver.stream.close()
    await moving
    assert await story.seen() == {two.identity.peer_id: (6, 12), three.identity.peer_id: (0, 6)}
    await story.look(two)
    assert two.loaded == [(6, 12)]
    assert isinstance(await (await asked(story, three, 0, 6)).told(), StageReady)
    await story.closing.aclose()


async def test_two_that_come_at_the_same_time_do_not_take_the_same(story: Story) -> None:
    one, two = story.machine("one", 6), story.machine("two", 6)
    story.claims.clear()
    starting = [asyncio.create_task(machine.placer.start()) for machine in (one, two)]
    await settle(lambda: story.slept == [CLAIM_S, CLAIM_S])
    story.claims.set()
    await asyncio.gather(*starting)
    assert sorted((await story.seen()).values()) == [(0, 6), (6, 12)]
    await story.closing.aclose()


async def test_two_that_could_leave_do_not_both_leave(story: Story) -> None:
    """Two have the first half when the other one is lost. They see that at the same time, and neither sees the other's
    claim before its own. The one whose claim is the first goes."""
    one = await story.start("one", 6)
    lost = await story.start("lost", 6, 10.0)
    two = await story.start("two", 6)
    await lost.placer.stop()
    for machine in (one, two):
        machine.directory.late = tuple(await story.placed())
    story.claims.clear()
    story.slept.clear()
    looking = [asyncio.create_task(machine.placer.look()) for machine in (one, two)]
    await settle(lambda: story.slept.count(CLAIM_S) == 2)
    story.claims.set()
    await asyncio.gather(*looking)
    assert sorted((await story.seen()).values()) == [(0, 6), (6, 12)]
    await story.closing.aclose()


async def test_a_stage_that_cannot_load_what_is_lacking_goes_back(story: Story) -> None:
    one = await story.start("one", 6)
    two = await story.start("two", 6)
    three = await story.start("three", 6)
    three.fails.add((6, 12))
    await two.placer.stop()
    await story.look(three)
    assert three.loaded == [(0, 6), (6, 12), (0, 6)]
    assert await story.seen() == {one.identity.peer_id: (0, 6), three.identity.peer_id: (0, 6)}
    await story.closing.aclose()


async def test_a_machine_that_can_load_nothing_says_so_and_leaves_no_claim(story: Story) -> None:
    machine = story.machine("one", 6)
    machine.fails.add((0, 6))
    with pytest.raises(UsageError, match="not here"):
        await machine.placer.start()
    assert await story.placed() == []
    await story.closing.aclose()


async def test_a_stage_whose_owner_has_paused_it_does_not_move(story: Story) -> None:
    await story.start("one", 6)
    two = await story.start("two", 6)
    three = await story.start("three", 6)
    await two.placer.stop()
    three.refusal = Draining("the owner of this worker is using it")
    await story.look(three)
    assert three.loaded == [(0, 6)]
    three.refusal = None
    await story.look(three)
    assert three.loaded == [(0, 6), (6, 12)]
    await story.closing.aclose()


async def test_looks_are_spread_over_time(story: Story) -> None:
    await story.start("one", 6)
    await settle(lambda: len(story.slept) == 2)
    assert LOOK_S / 2 <= story.slept[1] <= LOOK_S * 1.5
    await story.closing.aclose()


async def opened(story: Story, machine: Machine, first: int, last: int) -> Driver:
    driver = await asked(story, machine, first, last)
    assert isinstance(await driver.told(), StageReady)
    return driver


async def asked(story: Story, machine: Machine, first: int, last: int) -> Driver:
    network = story.world.peers[peer("reader").peer_id]
    driver = Driver(await network.open_stream(machine.identity.peer_id, STAGE_PROTOCOL))
    await driver.say(StageOpen(DIGEST, first, last, ticket_of(machine.identity.peer_id[-5:])))
    return driver
