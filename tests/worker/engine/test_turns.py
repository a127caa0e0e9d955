"""Turns: one at a time, first come, first served, in one thread, whatever happens in one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from p2pnet.worker.engine.turns import Turns, in_own_thread

LONG_S = 30.0
"""Nothing here takes as long: a test that waits for it has failed."""


def test_a_turn_returns_what_its_step_returns() -> None:
    turns = Turns()
    assert [turns.run(lambda number=number: number) for number in range(3)] == [0, 1, 2]


def test_an_error_in_a_turn_is_its_own() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        turns.run(lambda: 1 // 0)
    assert turns.run(lambda: 1) == 1


async def test_all_turns_are_in_one_thread_that_is_nobodys_else() -> None:
    turns = Turns()
    seen = [turns.run(threading.get_ident), await turns.take(threading.get_ident)]
    seen.append(await asyncio.to_thread(turns.run, threading.get_ident))
    assert len(set(seen)) == 1
    assert seen[0] != threading.get_ident()


async def test_first_come_first_served() -> None:
    turns, go_on, order = Turns(), threading.Event(), []
    first = asyncio.create_task(turns.take(lambda: go_on.wait(LONG_S)))
    others = [asyncio.create_task(turns.take(lambda number=number: order.append(number))) for number in range(5)]
    await asyncio.get_running_loop().run_in_executor(None, go_on.set)
    assert await first
    await asyncio.gather(*others)
    assert order == [0, 1, 2, 3, 4]


async def test_whoever_stops_waiting_gives_no_other_the_turn_early() -> None:
    turns, go_on = Turns(), threading.Event()
    first = asyncio.create_task(turns.take(lambda: go_on.wait(LONG_S)))
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)
    first.cancel()
    second = asyncio.create_task(turns.take(go_on.is_set))
    await asyncio.get_running_loop().run_in_executor(None, go_on.set)
    assert await second


async def test_a_thread_of_its_own_ends_with_what_it_was_for() -> None:
    thread = await in_own_thread(threading.current_thread)
    await asyncio.to_thread(thread.join, LONG_S)
    assert not thread.is_alive()
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0)
