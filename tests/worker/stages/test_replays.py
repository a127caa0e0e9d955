"""What a stage gave it passes on again when the driver asks: to a stage that came later, and no more than is fair."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest

from p2pnet.stage_messages import (
    BAD_ROW,
    BUSY,
    NOT_HERE,
    SEQUENCE_GONE,
    Copy,
    Hop,
    Piece,
    StagePassed,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
    ToDriver,
)
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.stages.computing import MAX_PASSED_OVER, StageComputer
from p2pnet.worker.stages.replays import MAX_REPLAYED_PER_TOKEN, MAX_WAITING_REPLAYS, Replays
from p2pnet.worker.stages.shape import Shape
from p2pnet.worker.stages.shelf import Drawer, Shelf
from tests.stories import peer, settle
from tests.worker.stages.stage_swarm import (
    CONTEXT,
    WIDTH,
    AddOne,
    Driver,
    StageSwarm,
    numbers,
    row,
    stage_swarm,
    ticket_of,
)
from tests.worker.stages.test_stage import refusal, result


def replay(name: str, step: int, *pieces: Piece, to: str) -> StageReplay:
    return StageReplay(ticket_of(name), step, pieces, (Hop(peer(to).peer_id, ticket_of(to)),))


async def begun(swarm: StageSwarm) -> tuple[Driver, Driver]:
    """A driver at "a" and "b" that has had three tokens of sequence 1 computed."""
    first, last = await swarm.open("a", 0, 2), await swarm.open("b", 2, 4)
    await first.say(row("a", 1, Piece(1, 0, 3, 1), to=["b"]), numbers(1, 2, 3))
    assert await first.told() == StagePassed(1)
    assert await result(last) == [7]
    return first, last


async def test_a_stage_that_comes_later_is_given_what_it_missed_and_nothing_is_computed_again() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, _ = await begun(swarm)
        await swarm.start("c", 2, 4)
        late = await swarm.open("c", 2, 4)
        await first.say(replay("a", 2, Piece(1, 0, 3), to="c"))
        assert await late.told() == StageResult(2, 4)
        assert await first.told() == StagePassed(2)
        await first.say(row("a", 3, Piece(1, 3, 1, 1), to=["c"]), numbers(5))
        assert await result(late) == [9]
        assert (swarm.runners["a"].passes, swarm.runners["c"].passes) == ([3, 1], [3, 1])


async def test_a_part_can_be_asked_for_also_of_a_copy() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await begun(swarm)
        await first.say(msgspec.structs.replace(row("a", 2, to=["b"]), copies=(Copy(1, 2, 2),)))
        assert await result(last) == []
        back = row("b", 3, Piece(2, 1, 1, 1))
        await last.say(back, numbers(0))
        assert await result(last) == [2]
        await first.say(replay("a", 4, Piece(2, 1, 1), to="b"))
        assert await result(last) == []
        await first.say(row("a", 5, Piece(2, 2, 1, 1), to=["b"]), numbers(7))
        assert await result(last) == [11]


FORGOTTEN: dict[str, tuple[StageReplay, str]] = {
    "tokens that were not computed": (replay("a", 9, Piece(1, 0, 4), to="b"), SEQUENCE_GONE),
    "a sequence that nobody knows": (replay("a", 9, Piece(2, 0, 1), to="b"), SEQUENCE_GONE),
    "what the last stage gave": (replay("b", 9, Piece(1, 0, 1), to="a"), SEQUENCE_GONE),
    "more than a row holds": (replay("a", 9, *(Piece(n, 0, 512) for n in range(3)), to="b"), BAD_ROW),
    "hidden states back": (replay("a", 9, Piece(1, 0, 1, 1), to="b"), BAD_ROW),
    "for a stage that nobody knows": (replay("a", 9, Piece(1, 0, 1), to="nobody"), NOT_HERE),
}


@pytest.mark.parametrize("name", FORGOTTEN)
async def test_what_cannot_be_passed_on_again_is_refused_and_rows_go_on(name: str) -> None:
    asked, code = FORGOTTEN[name]
    async with stage_swarm("a", "b") as swarm:
        first, last = await begun(swarm)
        at = first if asked.ticket == ticket_of("a") else last
        await at.say(asked)
        assert await refusal(at) == (code, 9)
        await first.say(row("a", 10, Piece(1, 3, 1, 1), to=["b"]), numbers(1))
        assert await result(last) == [5]


async def test_what_a_sequence_has_gone_back_over_is_not_passed_on() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await begun(swarm)
        await first.say(row("a", 2, Piece(1, 1, 1, 1), to=["b"]), numbers(9))
        assert await first.told() == StagePassed(2)
        assert await result(last) == [13]
        await first.say(replay("a", 3, Piece(1, 0, 3), to="b"))
        assert await refusal(first) == (SEQUENCE_GONE, 3)


async def test_only_the_driver_itself_asks_and_only_by_its_own_stream() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await begun(swarm)
        other = await swarm.open("a", 0, 2, "other")
        await other.say(replay("a", 2, Piece(1, 0, 1), to="b"))
        assert await refusal(other) == (BAD_ROW, None)
        await first.say(row("a", 2, Piece(1, 3, 1, 1), to=["b"]), numbers(1))
        assert await result(last) == [5]


async def test_who_asks_for_ever_is_refused_until_more_was_computed() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await begun(swarm)
        for step in range(2, 2 + MAX_REPLAYED_PER_TOKEN):
            await first.say(replay("a", step, Piece(1, 0, 3), to="b"))
            assert await last.told() == StageResult(step, 4)
            assert await first.told() == StagePassed(step)
        await first.say(replay("a", 10, Piece(1, 0, 1), to="b"))
        assert await refusal(first) == (BUSY, 10)
        await first.say(row("a", 11, Piece(1, 3, 1, 1), to=["b"]), numbers(1))
        assert await first.told() == StagePassed(11)
        assert await result(last) == [5]
        await first.say(replay("a", 12, Piece(1, 0, MAX_REPLAYED_PER_TOKEN), to="b"))
        assert await last.told() == StageResult(12, 4)


async def test_only_so_many_replays_wait() -> None:
    """The next stage does not read. A driver's rows have nothing to do with that."""
    told: list[ToDriver] = []
    stuck = asyncio.Event()

    async def pass_on(peer_id: str, data: bytes) -> None:
        await stuck.wait()

    async def tell(message: ToDriver) -> None:
        told.append(message)

    replays = Replays(Shape(WIDTH, "float32"), lambda pieces: numbers(1), pass_on, tell)
    replays.earn(100)
    await replays.take(replay("a", 1, Piece(1, 0, 1), to="b"))
    await asyncio.sleep(0)
    for step in range(2, 3 + MAX_WAITING_REPLAYS):
        await replays.take(replay("a", step, Piece(1, 0, 1), to="b"))
    assert told == [StageRefused(BUSY, "too many replays at the same time", 2 + MAX_WAITING_REPLAYS)]
    stuck.set()
    await settle(lambda: len(told) == 2 + MAX_WAITING_REPLAYS)
    await replays.close()


async def test_a_spare_row_lets_others_go_first_but_not_for_ever() -> None:
    runner, kept = AddOne(), Shelf(KvStore(1024), CONTEXT)
    computer = StageComputer(runner, kept, Shape(WIDTH, "float32"), Turns())
    busy, spare = kept.open(), kept.open()

    def rows(count: int, drawer: Drawer, *, is_spare: bool = False) -> list[Coroutine[Any, Any, bytes]]:
        """Of so many tokens each."""
        return [
            computer.compute(
                drawer,
                (0, 2),
                StageRow(bytes(16), 1, WIDTH, pieces=(Piece(number, 0, count),), is_spare=is_spare),
                numbers(*[1.0] * count),
            )
            for number in range(2 if is_spare else MAX_PASSED_OVER + 2)
        ]

    await asyncio.gather(*rows(3, spare, is_spare=True), *rows(1, busy))
    assert runner.passes == [*[1] * MAX_PASSED_OVER, 3, 1, 1, 3]
    await computer.close()
