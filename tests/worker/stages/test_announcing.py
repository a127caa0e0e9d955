"""What a stage announces while it serves, while its owner has paused it, and when it stops."""

from __future__ import annotations

import asyncio

from p2pnet.directory import Directory, validator
from p2pnet.errors import Draining, P2PNetError
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import StageRecord
from p2pnet.stage_messages import StageOpen, StageReady, StageRefused
from p2pnet.worker.stages.stage import Stage, StageModel
from tests.stories import DIGEST, ManualClock, peer, settle
from tests.worker.stages.stage_swarm import AddOne, StageSwarm, asleep, ticket_of


class Story:
    """One stage, whose owner may want the machine; time passes when it says so."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.reader = Directory(self.world.join(peer("reader").peer_id), self.clock)
        self.refusal: P2PNetError | None = None
        self.ticks: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        tick = asyncio.Event()
        self.ticks.append(tick)
        await tick.wait()

    async def pass_time(self, seconds: float) -> None:
        """Whatever waits goes on."""
        await settle(lambda: len(self.ticks) == 2)
        self.clock.advance(seconds)
        for tick in self.ticks:
            tick.set()
        self.ticks.clear()
        await settle(lambda: len(self.ticks) == 2)

    async def stage(self) -> Stage:
        network = self.world.join(peer("stage").peer_id)
        model = StageModel(AddOne(), DIGEST, 2, 4, 4, 8, "float32", 128, 1024)
        return await Stage.start(
            *(network, peer("stage"), Directory(network, self.clock), model, self.clock),
            refusal=lambda: self.refusal,
            sleep=self.sleep,
        )

    async def seen(self) -> tuple[StageRecord, ...]:
        return await self.reader.stages_of(DIGEST)


async def test_a_stage_is_announced_for_as_long_as_it_serves() -> None:
    story = Story()
    stage = await story.stage()
    (record,) = await story.seen()
    assert (record.first, record.last, record.layers, record.kv_free_tokens) == (2, 4, 4, 1024)
    assert record.addresses == await story.world.peers[peer("stage").peer_id].record_addresses()
    for _ in range(4):
        await story.pass_time(10)
        assert (await story.seen())[0].expires_ms == story.clock.now_ms + 30_000
    await stage.stop()
    assert await story.seen() == ()


async def test_a_stage_that_stops_and_starts_again_is_seen_at_once() -> None:
    story = Story()
    stage = await story.stage()
    await stage.stop()
    story.clock.advance(0.01)
    again = await story.stage()
    assert len(await story.seen()) == 1
    await again.stop()
    assert await story.seen() == ()


async def test_a_paused_stage_is_withdrawn_and_takes_no_drivers() -> None:
    story = Story()
    story.refusal = Draining("the owner of this worker is using it")
    stage = await story.stage()
    assert await story.seen() == ()
    story.refusal = None
    await story.pass_time(1)
    assert len(await story.seen()) == 1
    story.refusal = Draining("the owner of this worker is using it")
    await story.pass_time(1)
    assert await story.seen() == ()
    await story.pass_time(60)
    assert await story.seen() == ()
    await stage.stop()


async def test_drivers_of_a_stage_that_is_paused_are_told_to_leave() -> None:
    swarm = StageSwarm()
    refusal: list[P2PNetError | None] = [None]
    ticks: list[asyncio.Event] = []

    async def sleep(seconds: float) -> None:
        if seconds > 1:
            await asleep(seconds)
        ticks.append(asyncio.Event())
        await ticks[-1].wait()

    await swarm.start("a", 0, 2, refusal=lambda: refusal[0], sleep=sleep)
    driver = await swarm.open("a", 0, 2)
    refusal[0] = Draining("the owner of this worker is using it")
    await settle(lambda: bool(ticks))
    ticks[-1].set()
    told = await driver.told()
    assert isinstance(told, StageRefused)
    assert (told.code, told.step) == ("draining", None)
    late = await swarm.stream("a", "late")
    await late.say(StageOpen(DIGEST, 0, 2, ticket_of("a", "late")))
    told = await late.told()
    assert isinstance(told, StageRefused)
    assert told.code == "draining"
    refusal[0] = None
    assert isinstance((await opened(swarm)), StageReady)
    await swarm.closing.aclose()


async def opened(swarm: StageSwarm) -> object:
    driver = await swarm.stream("a", "after")
    await driver.say(StageOpen(DIGEST, 0, 2, ticket_of("a", "after")))
    return await driver.told()
