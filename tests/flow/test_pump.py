"""The pump: order, batches, bound, errors, cancellation, abandonment and silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from p2pnet.errors import PeerLost
from p2pnet.flow.pump import Abandoned, Ended, Pump
from tests.stories import settle

Step = int | Exception | asyncio.Event


class Source:
    """A generator that plays a script of items, errors and gates, and counts what it gave and whether it was closed."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.given = 0
        self.was_closed = 0

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for step in self.steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    self.given += 1
                    yield step
        finally:
            self.was_closed += 1


async def take_all(pump: Pump[int]) -> list[int]:
    taken: list[int] = []
    while True:
        try:
            taken += await pump.take()
        except Ended:
            return taken


async def test_what_waits_is_taken_at_once_and_in_order() -> None:
    source = Source(*range(20))
    async with Pump(source.items(), capacity=64) as pump:
        assert await pump.take() == list(range(20))
        with pytest.raises(Ended):
            await pump.take()
        with pytest.raises(Ended):
            await pump.take()
    assert source.was_closed == 1


@pytest.mark.parametrize("capacity", [1, 2, 3, 7, 1000])
async def test_nothing_is_lost_at_any_bound(capacity: int) -> None:
    async with Pump(Source(*range(100)).items(), capacity) as pump:
        assert await take_all(pump) == list(range(100))


async def test_a_generator_runs_ahead_by_the_bound_and_no_further() -> None:
    source = Source(*range(10))
    async with Pump(source.items(), capacity=3) as pump:
        for turn in (1, 2, 3):
            await settle(lambda turn=turn: source.given == 3 * turn)
            for _ in range(10):
                await asyncio.sleep(0)
            assert source.given == 3 * turn
            assert len(await pump.take()) == 3


async def test_an_empty_generator_ends() -> None:
    async with Pump(Source().items(), capacity=1) as pump:
        with pytest.raises(Ended):
            await pump.take()


async def test_an_error_comes_after_what_came_before_it() -> None:
    source = Source(1, 2, ZeroDivisionError("mine"))
    async with Pump(source.items(), capacity=64) as pump:
        assert await pump.take() == [1, 2]
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="mine"):
                await pump.take()
    assert source.was_closed == 1


async def test_an_error_wakes_a_reader_that_waits() -> None:
    gate = asyncio.Event()
    async with Pump(Source(gate, ZeroDivisionError()).items(), capacity=64) as pump:
        reader = asyncio.create_task(pump.take())
        await asyncio.sleep(0)
        gate.set()
        with pytest.raises(ZeroDivisionError):
            await reader


@pytest.mark.parametrize(
    "steps", [(1, "gate"), ("gate",), (1, 2, 3, 4)], ids=["between items", "at first", "held back"]
)
async def test_leaving_closes_the_generator_wherever_it_is(steps: tuple[int | str, ...]) -> None:
    source = Source(*(asyncio.Event() if isinstance(step, str) else step for step in steps))
    async with Pump(source.items(), capacity=2):
        await asyncio.sleep(0)
    assert source.was_closed == 1


async def test_leaving_at_once_starts_nothing() -> None:
    source = Source(1)
    async with Pump(source.items(), capacity=2):
        pass
    assert (source.given, source.was_closed) == (0, 0)


async def test_an_error_of_the_consumer_closes_the_generator_and_goes_on() -> None:
    source = Source(1, asyncio.Event())
    with pytest.raises(KeyError):
        async with Pump(source.items(), capacity=2) as pump:
            await pump.take()
            raise KeyError
    assert source.was_closed == 1


async def test_cancelling_the_consumer_closes_the_generator_within_one_step() -> None:
    source = Source(1, 2, asyncio.Event())

    async def consume() -> None:
        async with Pump(source.items(), capacity=8) as pump:
            while True:
                await pump.take()

    consumer = asyncio.create_task(consume())
    await settle(lambda: source.given == 2)
    consumer.cancel()
    await settle(consumer.done, max_turns=5)
    assert source.was_closed == 1
    assert consumer.cancelled()


async def test_abandoning_wakes_the_reader_and_closes_the_generator() -> None:
    source = Source(asyncio.Event())
    async with Pump(source.items(), capacity=8) as pump:
        reader = asyncio.create_task(pump.take())
        await asyncio.sleep(0)
        pump.abandon()
        with pytest.raises(Abandoned):
            await reader
        assert source.was_closed == 1


async def test_what_waits_is_not_given_out_once_abandoned() -> None:
    source = Source(1, 2, 3)
    async with Pump(source.items(), capacity=8) as pump:
        await settle(lambda: source.given == 3)
        pump.abandon()
        for _ in range(2):
            with pytest.raises(Abandoned):
                await pump.take()


async def test_silence_is_an_empty_batch_and_the_generator_goes_on() -> None:
    gate = asyncio.Event()
    async with Pump(Source(1, gate, 2).items(), capacity=8, silence_s=0.001) as pump:
        assert await pump.take() == [1]
        assert await pump.take() == []
        assert await pump.take() == []
        gate.set()
        assert await take_all(pump) == [2]


async def test_silence_is_counted_from_the_last_wait() -> None:
    # The timer of the first wait is still running when the second begins: it must sleep on, and then fire.
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()
    async with Pump(Source(first, 1, second).items(), capacity=8, silence_s=0.05) as pump:
        loop.call_later(0.03, first.set)
        assert await pump.take() == [1]
        since_s = loop.time()
        assert await pump.take() == []
        assert loop.time() - since_s >= 0.049


async def test_what_comes_in_time_is_no_silence() -> None:
    async with Pump(Source(*range(50)).items(), capacity=1, silence_s=60) as pump:
        assert await take_all(pump) == list(range(50))


async def test_the_owner_says_what_an_end_means() -> None:
    async def nothing() -> AsyncGenerator[int, None]:
        return
        yield 0

    async with Pump(nothing(), capacity=4, at_end=lambda: PeerLost("gone")) as pump:
        with pytest.raises(PeerLost, match="gone"):
            await pump.take()
