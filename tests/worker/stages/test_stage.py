"""A stage over the wire: rows go through it and on; nothing that a driver or a neighbour does harms it or others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from p2pnet.errors import PeerLost
from p2pnet.stage_messages import (
    BAD_NUMBERS,
    BAD_ROW,
    BUSY,
    DRAINING,
    NEXT_LOST,
    NOT_HERE,
    SEQUENCE_GONE,
    STAGE_FAILED,
    Copy,
    Hop,
    Piece,
    StageOpen,
    StagePassed,
    StagePing,
    StagePong,
    StageReady,
    StageRefused,
    StageResult,
    StageRow,
    ToDriver,
)
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, encode_stage_frame
from p2pnet.worker.stages.handler import MAX_STAGE_DRIVERS, MAX_STAGE_STREAMS_PER_PEER, StageTimes
from tests.stories import DIGEST, peer, settle
from tests.worker.stages.stage_swarm import WIDTH, Driver, StageSwarm, numbers, read, row, stage_swarm, ticket_of


async def result(driver: Driver) -> list[float]:
    frame = await driver.hear()
    assert frame is not None and isinstance(frame.header, StageResult), frame
    return read(frame.body)


async def refusal(driver: Driver) -> tuple[str, int | None]:
    told = await driver.told()
    assert isinstance(told, StageRefused), told
    return told.code, told.step


async def test_a_row_passes_two_stages_and_the_last_one_answers_the_driver() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await swarm.open("a", 0, 2), await swarm.open("b", 2, 4)
        await first.say(row("a", 1, Piece(1, 0, 3, 1), Piece(2, 0, 2, 2), to=["b"]), numbers(1, 2, 3, 10, 20))
        assert await first.told() == StagePassed(1)
        assert await result(last) == [7, 14, 24]
        await first.say(row("a", 2, Piece(2, 2, 1, 1), Piece(1, 3, 1), to=["b"]), numbers(5, 6))
        assert await result(last) == [9]


async def test_a_part_of_what_a_stage_has_can_be_asked_for() -> None:
    async with stage_swarm("whole") as swarm:
        driver = await swarm.open("whole", 1, 3)
        await driver.say(row("whole", 1, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(driver) == [3]


async def test_what_is_told_beside_a_row_is_done_at_each_stage() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await swarm.open("a", 0, 2), await swarm.open("b", 2, 4)
        await first.say(row("a", 1, Piece(1, 0, 3), to=["b"]), numbers(1, 2, 3))
        assert await result(last) == []
        copying = msgspec.structs.replace(row("a", 2, to=["b"]), copies=(Copy(1, 2, 2),), forget=(9,))
        await first.say(copying)
        assert await result(last) == []
        await first.say(row("a", 3, Piece(2, 2, 1, 1), to=["b"]), numbers(1))
        assert await result(last) == [5]
        await first.say(msgspec.structs.replace(row("a", 4, Piece(1, 3, 1), to=["b"]), forget=(1,)), numbers(1))
        assert [type(await first.told()) for _ in range(3)] == [StagePassed] * 3
        assert await refusal(first) == (SEQUENCE_GONE, 4)


BAD_ROWS: dict[str, tuple[StageRow, bytes, str]] = {
    "another width": (StageRow(ticket_of("a"), 1, 2, pieces=(Piece(1, 0, 1),)), bytes(8), BAD_ROW),
    "another dtype": (StageRow(ticket_of("a"), 1, WIDTH, "bfloat16", (Piece(1, 0, 1),)), bytes(2 * WIDTH), BAD_ROW),
    "more wanted than there are": (row("a", 1, Piece(1, 0, 1, 2)), numbers(1), BAD_ROW),
    "beyond the context": (row("a", 1, Piece(1, 0, 300)), numbers(*[1.0] * 300), BAD_ROW),
    "too many tokens": (
        row("a", 1, *(Piece(number, 0, 205) for number in range(5))),
        numbers(*[1.0] * 1025),
        BAD_ROW,
    ),
    "positions that skip": (row("a", 1, Piece(1, 1, 1)), numbers(1), SEQUENCE_GONE),
    "no number": (row("a", 1, Piece(1, 0, 1)), numbers(float("nan")), BAD_NUMBERS),
    "no finite number": (row("a", 1, Piece(1, 0, 1)), numbers(float("inf")), BAD_NUMBERS),
    "what makes the model fail": (row("a", 1, Piece(1, 0, 1)), numbers(-1), STAGE_FAILED),
    "a next stage that nobody knows": (row("a", 1, Piece(1, 0, 1), to=["nobody"]), numbers(1), NOT_HERE),
}


@pytest.mark.parametrize("name", BAD_ROWS)
async def test_a_row_that_does_not_fit_is_refused_and_the_next_one_is_not(name: str) -> None:
    bad, body, code = BAD_ROWS[name]
    async with stage_swarm("a") as swarm:
        driver = await swarm.open("a", 0, 2)
        await driver.say(bad, body)
        assert await refusal(driver) == (code, 1)
        await driver.say(row("a", 2, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(driver) == [3]


async def test_steps_must_grow() -> None:
    async with stage_swarm("a") as swarm:
        driver = await swarm.open("a", 0, 2)
        await driver.say(row("a", 2, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(driver) == [3]
        await driver.say(row("a", 2, Piece(1, 1, 1, 1)), numbers(1))
        assert await refusal(driver) == (BAD_ROW, 2)


async def test_a_next_stage_that_has_gone_is_named_to_the_driver() -> None:
    async with stage_swarm("a", "b") as swarm:
        first = await swarm.open("a", 0, 2)
        await swarm.networks["b"].kill()
        await first.say(row("a", 1, Piece(1, 0, 1), to=["b"]), numbers(1))
        assert await refusal(first) == (NEXT_LOST, 1)


OPENINGS: dict[str, tuple[StageOpen, str]] = {
    "another model": (StageOpen("sha256:" + "cd" * 32, 0, 2, ticket_of("a")), NOT_HERE),
    "layers of somebody else": (StageOpen(DIGEST, 1, 3, ticket_of("a")), NOT_HERE),
    "no layers": (StageOpen(DIGEST, 1, 1, ticket_of("a")), NOT_HERE),
}


@pytest.mark.parametrize("name", OPENINGS)
async def test_what_is_not_here_is_refused(name: str) -> None:
    opened, code = OPENINGS[name]
    async with stage_swarm("a") as swarm:
        driver = await swarm.stream("a")
        await driver.say(opened)
        assert await refusal(driver) == (code, None)
        assert await driver.told() is None


async def test_a_ticket_that_nobody_has_opens_nothing() -> None:
    async with stage_swarm("a") as swarm:
        stranger = await swarm.stream("a", "stranger")
        await stranger.say(row("a", 1, Piece(1, 0, 1)), numbers(1))
        assert await refusal(stranger) == (NOT_HERE, None)
        assert await stranger.told() is None


@pytest.mark.parametrize("data", [b"\xff" * 4, b"\0\0\0\1\xc1", b"GET / HTTP/1.1\r\n\r\n"])
async def test_garbage_ends_the_stream_that_it_came_on(data: bytes) -> None:
    async with stage_swarm("a") as swarm:
        good, bad = await swarm.open("a", 0, 2), await swarm.stream("a", "stranger")
        await bad.stream.write(data)
        assert await refusal(bad) == (BAD_ROW, None)
        await good.say(row("a", 1, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(good) == [3]


async def test_rows_of_a_driver_that_has_gone_leave_the_stream_of_a_neighbour_open() -> None:
    """Others' rows come on it, too."""
    async with stage_swarm("a", "b") as swarm:
        one, other = [(await swarm.open("a", 0, 2, name), await swarm.open("b", 2, 4, name)) for name in ("one", "two")]
        for name, (first, last) in (("one", one), ("two", other)):
            await first.say(row("a", 1, Piece(1, 0, 1, 1), to=["b"], driver=name), numbers(1))
            assert await result(last) == [5]
        one[1].stream.close()
        await settle(lambda: swarm.stages["b"].drivers == 1)
        await one[0].say(row("a", 2, Piece(1, 1, 1, 1), to=["b"], driver="one"), numbers(1))
        await other[0].say(row("a", 2, Piece(1, 1, 1, 1), to=["b"], driver="two"), numbers(2))
        assert await result(other[1]) == [6]
        assert swarm.networks["b"].open_streams == 2  # that of the other driver, and that from the stage before


async def test_when_a_drivers_stream_ends_all_that_it_had_is_forgotten() -> None:
    async with stage_swarm("a") as swarm:
        driver = await swarm.open("a", 0, 2)
        await driver.say(row("a", 1, Piece(1, 0, 3, 1)), numbers(1, 2, 3))
        await result(driver)
        driver.stream.close()
        await settle(lambda: swarm.stages["a"].drivers == 0)
        again = await swarm.open("a", 0, 2)
        await again.say(row("a", 1, Piece(1, 3, 1, 1)), numbers(1))
        assert await refusal(again) == (SEQUENCE_GONE, 1)


async def test_a_driver_that_comes_again_takes_its_own_place() -> None:
    async with stage_swarm("a") as swarm:
        old = await swarm.open("a", 0, 2)
        new = await swarm.open("a", 0, 2, ticket=bytes(16))
        assert await old.told() is None
        assert swarm.stages["a"].drivers == 1
        await new.say(msgspec.structs.replace(row("a", 1, Piece(1, 0, 1, 1)), ticket=bytes(16)), numbers(1))
        assert await result(new) == [3]


async def test_a_ticket_that_is_in_use_is_not_given_away() -> None:
    async with stage_swarm("a") as swarm:
        driver, thief = await swarm.open("a", 0, 2), await swarm.stream("a", "thief")
        await thief.say(StageOpen(DIGEST, 0, 2, ticket_of("a")))
        assert await refusal(thief) == (BAD_ROW, None)
        await driver.say(row("a", 1, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(driver) == [3]


async def test_floods_of_drivers_and_streams_are_refused() -> None:
    async with stage_swarm("a") as swarm:
        drivers = [await swarm.open("a", 0, 2, f"driver {number}") for number in range(MAX_STAGE_DRIVERS)]
        late = await swarm.stream("a", "late")
        await late.say(StageOpen(DIGEST, 0, 2, bytes(16)))
        assert await refusal(late) == (BUSY, None)
        for _ in range(MAX_STAGE_STREAMS_PER_PEER - 1):
            await swarm.stream("a", "driver 0")
        assert await refusal(await swarm.stream("a", "driver 0")) == (BUSY, None)
        await drivers[0].say(row("a", 1, Piece(1, 0, 1, 1), driver="driver 0"), numbers(1))
        assert await result(drivers[0]) == [3]


async def test_a_flood_of_sequences_leaves_another_driver_its_memory() -> None:
    async with stage_swarm("a") as swarm:
        flood, modest = await swarm.open("a", 0, 2, "flood"), await swarm.open("a", 0, 2, "modest")
        await modest.say(row("a", 1, *(Piece(n, 0, 1) for n in range(4)), driver="modest"), numbers(1, 1, 1, 1))
        await result(modest)
        for step in range(1, 40):
            pieces = [Piece(8 * step + n, 0, 1) for n in range(8)]
            await flood.say(row("a", step, *pieces, driver="flood"), numbers(*[1.0] * 8))
            await result(flood)
        await flood.say(row("a", 40, *(Piece(n, 0, 1) for n in range(17)), driver="flood"), numbers(*[1.0] * 17))
        assert await refusal(flood) == (BUSY, 40)
        await modest.say(row("a", 2, *(Piece(n, 1, 1, 1) for n in range(4)), driver="modest"), numbers(1, 2, 3, 4))
        assert await result(modest) == [3, 4, 5, 6]


async def test_what_waits_is_computed_together_whoever_sent_it() -> None:
    async with stage_swarm("a") as swarm:
        names = ["one", "two", "three"]
        drivers = [await swarm.open("a", 0, 2, name) for name in names]
        held = threading.Event()
        swarm.runners["a"].before = held.wait
        for name, driver in zip(names, drivers, strict=True):
            await driver.say(row("a", 1, Piece(1, 0, 2, 1), driver=name), numbers(1, 2))
            await driver.say(row("a", 2, Piece(1, 2, 1, 1), driver=name), numbers(3))
            await settle(lambda: True)
        held.set()
        assert [await result(driver) for driver in drivers] == [[4]] * 3
        assert [await result(driver) for driver in drivers] == [[5]] * 3
        assert swarm.runners["a"].passes[0] == 2
        assert sum(swarm.runners["a"].passes) == 9
        assert len(swarm.runners["a"].passes) < 6


async def test_one_bad_row_does_not_fail_those_beside_it() -> None:
    async with stage_swarm("a") as swarm:
        names = ["first", "bad", "nan", "good"]
        drivers = {name: await swarm.open("a", 0, 2, name) for name in names}
        held = threading.Event()
        swarm.runners["a"].before = held.wait
        for name, value in zip(names, (1.0, -1.0, float("nan"), 2.0), strict=True):
            await drivers[name].say(row("a", 1, Piece(1, 0, 1, 1), driver=name), numbers(value))
        held.set()
        assert await result(drivers["first"]) == [3]
        assert await refusal(drivers["bad"]) == (STAGE_FAILED, 1)
        assert await refusal(drivers["nan"]) == (BAD_NUMBERS, 1)
        assert await result(drivers["good"]) == [4]


async def test_a_stage_that_stops_says_so_and_lets_drivers_leave() -> None:
    async with stage_swarm("a") as swarm:
        driver = await swarm.open("a", 0, 2)
        stopping = asyncio.create_task(swarm.stages["a"].stop(5.0))
        assert await refusal(driver) == (DRAINING, None)
        await driver.say(row("a", 1, Piece(1, 0, 1, 1)), numbers(1))
        assert await result(driver) == [3]
        late = await swarm.stream("a", "late")
        await late.say(StageOpen(DIGEST, 0, 2, bytes(16)))
        assert await refusal(late) == (DRAINING, None)
        driver.stream.close()
        await stopping


async def test_a_driver_that_goes_while_its_row_is_computed_leaves_nothing() -> None:
    async with stage_swarm("a") as swarm:
        driver, other = await swarm.open("a", 0, 2), await swarm.open("a", 0, 2, "other")
        held, begun = threading.Event(), threading.Event()
        swarm.runners["a"].before = lambda: (begun.set(), held.wait())
        await driver.say(row("a", 1, Piece(1, 0, 100)), numbers(*[1.0] * 100))
        await asyncio.to_thread(begun.wait)
        driver.stream.close()
        await settle(lambda: swarm.stages["a"].drivers == 1)
        held.set()
        await other.say(row("a", 1, Piece(1, 0, 1, 1), driver="other"), numbers(1))
        assert await result(other) == [3]


async def test_a_neighbour_stage_dials_nobody_that_announces_nothing() -> None:
    """However a driver names a peer in its route."""
    async with stage_swarm("a") as swarm:
        opened: list[Any] = []

        async def record(stream: Any) -> None:
            opened.append(stream)

        victim = swarm.world.join(peer("victim").peer_id)
        await victim.handle(STAGE_PROTOCOL, record)
        driver = await swarm.open("a", 0, 2)
        naming = msgspec.structs.replace(row("a", 1, Piece(1, 0, 1)), route=(Hop(victim.peer_id, bytes(16)),))
        await driver.say(naming, numbers(1))
        assert await refusal(driver) == (NOT_HERE, 1)
        assert opened == []


async def test_many_rows_at_once_come_back_in_order() -> None:
    async with stage_swarm("a", "b") as swarm:
        first, last = await swarm.open("a", 0, 2), await swarm.open("b", 2, 4)
        sending = asyncio.create_task(flood(first, 60))
        assert [await result(last) for _ in range(60)] == [[float(number + 4)] for number in range(60)]
        await sending


async def flood(driver: Driver, rows: int) -> None:
    frames = (
        encode_stage_frame(row("a", number + 1, Piece(1, number, 1, 1), to=["b"]), numbers(number))
        for number in range(rows)
    )
    await driver.stream.write(b"".join(frames))


async def test_a_stream_that_is_severed_is_no_error() -> None:
    async with stage_swarm("a") as swarm:
        driver = await swarm.open("a", 0, 2)
        await swarm.networks["a"].hang_up(peer("driver").peer_id)
        assert await driver.told() is None
        with pytest.raises(PeerLost):
            await driver.say(row("a", 1))
        assert isinstance(await settle_open(swarm), StageReady)


async def settle_open(swarm: StageSwarm) -> Any:
    driver = await swarm.stream("a")
    await driver.say(StageOpen(DIGEST, 0, 2, bytes(16)))
    return await driver.told()


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (StageTimes(opening_s=0.01), b""),
        (StageTimes(opening_s=0.01), encode_stage_frame(StageOpen(DIGEST, 0, 2, ticket_of("a")))[:-1]),
        (StageTimes(arriving_s=0.01), encode_stage_frame(row("a", 1, Piece(1, 0, 1)), numbers(1))[:-1]),
        (StageTimes(silence_s=0.01), encode_stage_frame(row("a", 1))),
    ],
)
async def test_who_does_not_go_on_is_not_waited_for(times: StageTimes, says: bytes) -> None:
    swarm = StageSwarm()
    await swarm.start("a", 0, 2, times=times)
    driver = await swarm.stream("a")
    if times.opening_s > 1:
        await driver.say(StageOpen(DIGEST, 0, 2, ticket_of("a")))
        assert isinstance(await driver.told(), StageReady)
    await driver.stream.write(says)
    told = [message async for message in all_told(driver)]
    assert told[-1] == StageRefused(BUSY, "nothing came for too long")
    await settle(lambda: swarm.stages["a"].drivers == 0)
    await swarm.closing.aclose()


async def test_a_sign_of_life_is_given_at_once_over_a_stream_of_its_own() -> None:
    """Over the one of a ticket, rows would be before it."""
    swarm = StageSwarm()
    await swarm.start("a", 0, 2)
    pings, driver = await swarm.stream("a"), await swarm.stream("a")
    for _ in range(2):
        await pings.say(StagePing())
        assert await pings.told() == StagePong()
    await driver.say(StageOpen(DIGEST, 0, 2, ticket_of("a")))
    assert isinstance(await driver.told(), StageReady)
    await driver.say(StagePing())
    assert await driver.told() == StageRefused(BAD_ROW, "a ping on the stream of a ticket")
    await swarm.closing.aclose()


async def all_told(driver: Driver) -> AsyncIterator[ToDriver]:
    while (told := await driver.told()) is not None:
        yield told
