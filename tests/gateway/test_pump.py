"""The pump: order, batches, bound, errors, cancellation and silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from fake_generate import FakeGenerate, answer

from gateway.pump import ClientGone, EventPump
from gateway.service import GenerationEvent
from p2pnet.errors import Busy, PeerLost
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, TextPrompt

REQUEST = GenerateRequest("request-1", "tiny", TextPrompt("a"))


def source(generate: FakeGenerate) -> AsyncGenerator[GenerationEvent, None]:
    return generate(REQUEST)


async def take_all(pump: EventPump) -> list[GenerationEvent]:
    taken: list[GenerationEvent] = []
    while not taken or not isinstance(taken[-1], Finished):
        taken += await pump.take()
    return taken


async def test_what_waits_is_taken_at_once_and_in_order() -> None:
    steps = answer(*"abcdefgh")
    async with EventPump(source(FakeGenerate(*steps)), capacity=64) as pump:
        assert await pump.take() == steps


@pytest.mark.parametrize("capacity", [1, 2, 3, 100])
async def test_nothing_is_lost_at_any_bound(capacity: int) -> None:
    steps = answer(*(str(i) for i in range(50)))
    async with EventPump(source(FakeGenerate(*steps)), capacity) as pump:
        assert await take_all(pump) == steps


async def test_a_generation_runs_ahead_by_its_bound_and_no_further() -> None:
    generate = FakeGenerate(*answer(*"abcdefgh"))
    async with EventPump(source(generate), capacity=3) as pump:
        assert len(await pump.take()) == 3
        assert generate.yielded == 3
        assert len(await pump.take()) == 3
        assert generate.yielded == 6


async def test_an_error_comes_after_what_came_before_it() -> None:
    generate = FakeGenerate(Accepted(1), TextDelta("a"), Busy("full"))
    async with EventPump(source(generate), capacity=64) as pump:
        assert await pump.take() == [Accepted(1), TextDelta("a")]
        with pytest.raises(Busy):
            await pump.take()
    assert generate.closed == 1


async def test_an_end_without_finished_is_a_lost_peer() -> None:
    async with EventPump(source(FakeGenerate(Accepted(1))), capacity=64) as pump:
        await pump.take()
        with pytest.raises(PeerLost):
            await pump.take()


async def test_leaving_closes_a_generation_that_waits() -> None:
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    async with EventPump(source(generate), capacity=64) as pump:
        await pump.take()
        assert generate.closed == 0
    assert generate.closed == 1


async def test_leaving_closes_a_generation_that_is_held_back() -> None:
    generate = FakeGenerate(*answer(*"abcdefgh"))
    async with EventPump(source(generate), capacity=2) as pump:
        await pump.take()
    assert generate.closed == 1
    assert generate.yielded < 10


async def test_abandoning_wakes_the_reader_and_closes_the_generation() -> None:
    generate = FakeGenerate(asyncio.Event())
    async with EventPump(source(generate), capacity=64) as pump:
        reader = asyncio.create_task(pump.take())
        await generate.is_waiting.wait()
        pump.abandon()
        with pytest.raises(ClientGone):
            await reader
        await generate.has_closed.wait()


async def test_silence_is_an_empty_batch_and_the_generation_goes_on() -> None:
    gate = asyncio.Event()
    async with EventPump(source(FakeGenerate(gate, *answer("a"))), capacity=64, silence_s=0.001) as pump:
        assert await pump.take() == []
        assert await pump.take() == []
        gate.set()
        assert await take_all(pump) == answer("a")
