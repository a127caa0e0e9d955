"""The meter: places are held and given back whatever happens, and speed is measured over whole requests."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from p2pnet.errors import Busy
from p2pnet.messages import Load
from p2pnet.worker.load import SPEED_SMOOTHING, LoadMeter
from tests.stories import settle


def test_an_idle_meter() -> None:
    meter = LoadMeter(3)
    assert meter.load == Load(running=0, queued=0, slots=3)
    assert (meter.requests_served, meter.tokens_served, meter.tokens_per_s) == (0, 0, None)


def test_places_are_held_one_by_one_and_then_it_is_busy() -> None:
    meter = LoadMeter(3)
    with ExitStack() as held:
        for number in range(1, 4):
            held.enter_context(meter.place())
            assert meter.load == Load(running=0, queued=number, slots=3)
        for _ in range(2):
            with pytest.raises(Busy, match="all 3 places"), meter.place():
                raise AssertionError("there was no place")
        assert meter.load.queued == 3
    assert meter.load == Load(0, 0, 3)
    with meter.place():
        assert meter.load.queued == 1


def test_who_computes_is_running_and_not_queued() -> None:
    meter = LoadMeter(2)
    with meter.place(), meter.place():
        with meter.computing():
            assert meter.load == Load(running=1, queued=1, slots=2)
            with meter.computing():
                assert meter.load == Load(running=2, queued=0, slots=2)
        assert meter.load == Load(running=0, queued=2, slots=2)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError, Busy])
def test_an_error_gives_the_place_back(error: type[BaseException]) -> None:
    meter = LoadMeter(1)
    with pytest.raises(error), meter.place(), meter.computing():
        raise error
    assert meter.load == Load(0, 0, 1)


def test_a_meter_without_places_is_always_busy() -> None:
    with pytest.raises(Busy), LoadMeter(0).place():
        pass


async def test_waiting_for_idle_ends_with_the_last_place() -> None:
    meter = LoadMeter(2)
    await meter.wait_idle()
    with ExitStack() as held:
        first = held.enter_context(ExitStack())
        first.enter_context(meter.place())
        held.enter_context(meter.place())
        waiting = asyncio.create_task(meter.wait_idle())
        first.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    await settle(waiting.done, max_turns=3)


async def test_idle_is_over_when_a_place_is_taken_again() -> None:
    meter = LoadMeter(1)
    with meter.place():
        pass
    with meter.place():
        waiting = asyncio.create_task(meter.wait_idle())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


SPEEDS: list[tuple[str, list[tuple[int, float]], float | None]] = [
    ("one request", [(11, 2.0)], 5.0),
    ("one token has no speed", [(1, 2.0)], None),
    ("no token has no speed", [(0, 2.0)], None),
    ("no time has no speed", [(11, 0.0)], None),
    ("time that went backwards has no speed", [(11, -1.0)], None),
    ("the average moves by its weight", [(11, 1.0), (21, 1.0)], 10.0 + SPEED_SMOOTHING * 10.0),
    ("what has no speed changes no average", [(11, 1.0), (1, 1.0), (5, 0.0)], 10.0),
]


@pytest.mark.parametrize(("served", "speed"), [case[1:] for case in SPEEDS], ids=[case[0] for case in SPEEDS])
def test_speed(served: list[tuple[int, float]], speed: float | None) -> None:
    meter = LoadMeter(1)
    for tokens, duration_s in served:
        meter.count(tokens, duration_s)
    assert meter.tokens_per_s == pytest.approx(speed) if speed else meter.tokens_per_s is None
    assert meter.requests_served == len(served)
    assert meter.tokens_served == sum(tokens for tokens, _ in served)


def test_the_average_follows_a_lasting_change() -> None:
    meter = LoadMeter(1)
    for _ in range(3):
        meter.count(101, 1.0)
    for _ in range(30):
        meter.count(11, 1.0)
    assert meter.tokens_per_s == pytest.approx(10.0, rel=0.05)
