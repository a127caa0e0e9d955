"""A stage that breaks the protocol, lies or is silent costs a chain, never the driver, and it is the one to be left."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from p2pnet.directory import validator
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryWorld
from p2pnet.stage_messages import (
    BAD_NUMBERS,
    BAD_ROW,
    BUSY,
    DRAINING,
    NEXT_LOST,
    NOT_HERE,
    SEQUENCE_GONE,
    STAGE_FAILED,
    Piece,
    StageOpen,
    StagePassed,
    StageReady,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
    ToDriver,
    ToStage,
)
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, encode_stage_frame, to_stage_decoder
from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.choosing import Leg
from p2pnet.worker.chains.member import ChainFault, SequenceGone, StageFull
from p2pnet.worker.chains.steps import blamed
from tests.stories import DIGEST, NOW_MS, peer, settle

WIDTH = 2
BODY = bytes(4 * WIDTH)
ROW = StageRow(bytes(16), 1, WIDTH, pieces=(Piece(1, 0, 1, 1),))
NAMES = ("first", "last")
READY = StageReady(1000)

Say = Callable[[ToDriver, bytes], Awaitable[None]]
Script = Callable[[Say, StageRow | StageReplay, int], Awaitable[None]]
"""What a stage does with a row of the driver's, that is the `nth`: each stage is shown the rows of its own stream."""


class World:
    """Two stages that do as they are told: only the first sees rows, and the last hears of them by a back door."""

    def __init__(self, scripts: dict[str, Script], ready: ToDriver = READY) -> None:
        self.memory = MemoryWorld(validator(lambda: NOW_MS))
        self.says: dict[str, Say] = {}
        self.scripts = scripts
        self.ready = ready
        self.rows = 0

    async def chain(self, timeout_s: float = 5.0, min_kv_tokens: int = 0) -> Chain:
        for name in NAMES:
            await self.memory.join(peer(name).peer_id).handle(STAGE_PROTOCOL, self._handler(name))
        legs = [Leg(peer(name).peer_id, number, number + 1) for number, name in enumerate(NAMES)]
        driver = self.memory.join(peer("driver").peer_id)
        return await Chain.open(driver, DIGEST, legs, lambda peer_id: (), lambda tokens: timeout_s, min_kv_tokens)

    def _handler(self, name: str) -> Callable[[Stream], Awaitable[None]]:
        async def serve(stream: Stream) -> None:
            async def say(message: ToDriver, body: bytes = b"") -> None:
                await stream.write(encode_stage_frame(message, body))

            decoder = to_stage_decoder()
            while data := await stream.read():
                for frame in decoder.feed(data):
                    await self._hear(name, frame.header, say)

        return serve

    async def _hear(self, name: str, header: ToStage, say: Say) -> None:
        if isinstance(header, StageOpen):
            self.says[name] = say
            await say(self.ready, b"")
            return
        self.rows += 1
        for each in NAMES:
            if each in self.scripts:
                await self.scripts[each](self.says[each], header, self.rows)


async def passes(say: Say, row: StageRow | StageReplay, nth: int) -> None:
    await say(StagePassed(row.step), b"")


async def answers(say: Say, row: StageRow | StageReplay, nth: int) -> None:
    await say(StageResult(row.step, WIDTH, tokens=1), BODY)


def saying(message: Callable[[StageRow | StageReplay], ToDriver], body: bytes = b"") -> Script:
    async def script(say: Say, row: StageRow | StageReplay, nth: int) -> None:
        await say(message(row), body)

    return script


def refusing(code: str) -> Script:
    return saying(lambda row: StageRefused(code, "", row.step))


@pytest.fixture
async def closing() -> AsyncIterator[list[Chain]]:
    chains: list[Chain] = []
    yield chains
    for chain in chains:
        await chain.close()


async def test_honest_stages_give_what_was_wanted(closing: list[Chain]) -> None:
    chain = await World({"first": passes, "last": answers}).chain()
    closing.append(chain)
    assert [await chain.step(ROW, BODY) for _ in range(3)] == [BODY] * 3
    assert chain.kv_tokens == 1000


LIES: dict[str, tuple[dict[str, Script], str]] = {
    "another width": ({"last": saying(lambda row: StageResult(row.step, 1, tokens=1), bytes(4))}, "last"),
    "another dtype": ({"last": saying(lambda row: StageResult(row.step, WIDTH, "float16", 1), bytes(4))}, "last"),
    "too many tokens": ({"last": saying(lambda row: StageResult(row.step, WIDTH, tokens=2), BODY * 2)}, "last"),
    "nothing": ({"last": saying(lambda row: StageResult(row.step, WIDTH))}, "last"),
    "a step that has not been": (
        {"last": saying(lambda row: StageResult(row.step + 1, WIDTH, tokens=1), BODY)},
        "last",
    ),
    "a result from the middle": ({"first": answers}, "first"),
    "ready again": ({"last": saying(lambda row: StageReady(1))}, "last"),
    "the first fails": ({"first": refusing(STAGE_FAILED)}, "first"),
    "the last fails": ({"last": refusing(STAGE_FAILED)}, "last"),
    "no numbers from the first": ({"last": refusing(BAD_NUMBERS)}, "first"),
    "the last cannot be reached from the first": ({"first": refusing(NEXT_LOST)}, "last"),
    "a code that nobody knows": ({"first": refusing("nonsense")}, "first"),
    "it takes no more rows": ({"first": saying(lambda row: StageRefused(NOT_HERE))}, "first"),
}


@pytest.mark.parametrize("name", LIES)
async def test_whoever_breaks_the_chain_is_blamed(closing: list[Chain], name: str) -> None:
    scripts, guilty = LIES[name]
    chain = await World(scripts).chain()
    closing.append(chain)
    for _ in range(2):
        with pytest.raises(ChainFault) as fault:
            await chain.step(ROW, BODY)
        assert fault.value.peer_id == peer(guilty).peer_id
    assert chain.fault is not None


@pytest.mark.parametrize(("scripts", "guilty"), [({}, "first"), ({"first": passes}, "last")])
async def test_whoever_is_silent_is_blamed(closing: list[Chain], scripts: dict[str, Script], guilty: str) -> None:
    chain = await World(scripts).chain(timeout_s=0.02)
    closing.append(chain)
    with pytest.raises(ChainFault, match="nothing came in time") as fault:
        await chain.step(ROW, BODY)
    assert fault.value.peer_id == peer(guilty).peer_id


@pytest.mark.parametrize(("code", "raised"), [(SEQUENCE_GONE, SequenceGone), (BUSY, StageFull)])
async def test_what_can_be_done_again_leaves_the_chain_open(
    closing: list[Chain], code: str, raised: type[Exception]
) -> None:
    async def first_refuses(say: Say, row: StageRow | StageReplay, nth: int) -> None:
        await (refusing(code) if nth == 1 else answers)(say, row, nth)

    chain = await World({"first": passes, "last": first_refuses}).chain()
    closing.append(chain)
    with pytest.raises(raised):
        await chain.step(ROW, BODY)
    assert await chain.step(ROW, BODY) == BODY


async def test_a_stage_that_ends_an_idle_stream_in_good_order_is_no_bad_stage(closing: list[Chain]) -> None:
    """It does so when nothing was asked for long. In mid-step it is one."""
    idle, busy = World({}), World({"last": saying(lambda row: StageRefused(BUSY))})
    for world in (idle, busy):
        closing.append(await world.chain())
    await idle.says["last"](StageRefused(BUSY), b"")
    await settle(lambda: closing[0].fault is not None)
    with pytest.raises(ChainFault):
        await closing[1].step(ROW, BODY)
    assert [chain.is_dismissed for chain in closing] == [True, False]


async def test_a_result_that_nobody_waits_for_any_more_is_passed_over(closing: list[Chain]) -> None:
    async def late(say: Say, row: StageRow | StageReplay, nth: int) -> None:
        if nth == 1:
            await refusing(SEQUENCE_GONE)(say, row, nth)
            return
        await say(StageResult(row.step - 1, WIDTH, tokens=1), BODY)
        await answers(say, row, nth)

    chain = await World({"last": late}).chain()
    closing.append(chain)
    with pytest.raises(SequenceGone):
        await chain.step(ROW, BODY)
    assert await chain.step(ROW, BODY) == BODY


async def test_garbage_on_the_wire_is_the_stages_fault(closing: list[Chain]) -> None:
    world = World({"first": passes})
    chain = await world.chain()
    closing.append(chain)
    streams = list(world.memory.peers[peer("last").peer_id]._streams)
    await streams[0].write(b"\xff" * 100)
    with pytest.raises(ChainFault) as fault:
        await chain.step(ROW, BODY)
    assert fault.value.peer_id == peer("last").peer_id


async def test_a_stage_that_stops_is_used_to_the_end_of_what_is_under_way(closing: list[Chain]) -> None:
    async def stopping(say: Say, row: StageRow | StageReplay, nth: int) -> None:
        await say(StageRefused(DRAINING), b"")
        await answers(say, row, nth)

    chain = await World({"last": stopping}).chain()
    closing.append(chain)
    assert await chain.step(ROW, BODY) == BODY
    assert chain.leaving == {peer("last").peer_id}
    with pytest.raises(ChainFault, match="it is stopping"):
        await chain.step(ROW, BODY)


@pytest.mark.parametrize(
    ("ready", "min_kv_tokens"),
    [(StageRefused(BUSY), 0), (StageReady(100), 101), (StageResult(1, WIDTH), 0), (StageRefused(DRAINING), 0)],
)
async def test_a_stage_that_does_not_take_us_is_no_chain(ready: ToDriver, min_kv_tokens: int) -> None:
    world = World({}, ready)
    with pytest.raises(ChainFault):
        await world.chain(min_kv_tokens=min_kv_tokens)
    await settle(lambda: all(network.open_streams == 0 for network in world.memory.peers.values()))


async def test_a_stage_that_cannot_be_reached_is_named() -> None:
    world = World({})
    world.memory.faults.severed.add(frozenset((peer("driver").peer_id, peer("last").peer_id)))
    with pytest.raises(ChainFault) as fault:
        await world.chain()
    assert fault.value.peer_id == peer("last").peer_id


@pytest.mark.parametrize(
    ("number", "code", "guilty"),
    [
        (0, BAD_ROW, 0),
        (2, BAD_ROW, 1),
        (1, BAD_NUMBERS, 0),
        (0, NEXT_LOST, 1),
        (2, NEXT_LOST, 2),
        (1, STAGE_FAILED, 1),
        (1, "anything", 1),
    ],
)
def test_whose_fault_a_refusal_is(number: int, code: str, guilty: int) -> None:
    assert blamed(number, code, stages=3) == guilty


@pytest.mark.parametrize(
    ("says", "raised"),
    [
        (refusing(SEQUENCE_GONE), SequenceGone),
        (refusing(BUSY), StageFull),
        (refusing(BAD_ROW), ChainFault),
        (saying(lambda row: StageResult(row.step, WIDTH, tokens=1), BODY), ChainFault),
    ],
    ids=["gone", "busy", "bad row", "a result"],
)
async def test_a_stage_that_does_not_pass_on_again_is_the_one_to_know(
    closing: list[Chain], says: Script, raised: type[Exception]
) -> None:
    chain = await World({"first": says}).chain()
    closing.append(chain)
    with pytest.raises(raised) as error:
        await chain.replay(chain.members, StageReplay(bytes(16), 1, (Piece(1, 0, 1),), (chain.members[1].hop,)))
    if isinstance(error.value, ChainFault):
        assert error.value.peer_id == chain.fault.peer_id == peer("first").peer_id  # type: ignore[union-attr]
    else:
        assert isinstance(error.value, SequenceGone | StageFull)
        assert (error.value.member, chain.fault) == (chain.members[0], None)


async def test_what_becomes_of_a_stage_that_stands_by_is_nothing_to_the_chain(closing: list[Chain]) -> None:
    """It says that it has computed more than it was asked for. Then it is gone, and the chain goes on."""
    world = World({"first": passes, "last": answers})
    chain = await world.chain()
    closing.append(chain)
    await world.memory.join(peer("spare").peer_id).handle(STAGE_PROTOCOL, world._handler("spare"))
    chain.stand_by(await chain.join([Leg(peer("spare").peer_id, 1, 2)]))
    (spare,) = chain.spares
    await world.says["spare"](StageResult(1, WIDTH, tokens=1), BODY)
    await settle(lambda: spare.fault is not None)
    assert (chain.spares, chain.fault) == ((), None)
    assert await chain.step(ROW, BODY) == BODY
