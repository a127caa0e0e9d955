"""Residence: what is in memory when, whoever asks, leaves, fails or stops at whatever moment."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from p2pnet.errors import WorkerFailed
from p2pnet.worker.engine.residence import MAX_DOUBLINGS, RETRY_S, Residence
from tests.stories import settle
from tests.worker.timers import ManualTimers

IDLE_S = 5.0


class Thing:
    """What is large."""

    def __init__(self) -> None:
        self.is_closed = False
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()
        self.may_close.set()

    async def close(self) -> None:
        self.closing.set()
        await self.may_close.wait()
        self.is_closed = True


class Site:
    """A residence, its timers, and a loader that a test may hold or make fail."""

    def __init__(self, idle_s: float | None = IDLE_S) -> None:
        self.timers = ManualTimers()
        self.loads = 0
        self.fails = False
        self.may_load = threading.Event()
        self.may_load.set()
        self.residence = Residence("thing", Thing(), self.load, idle_s, self.timers.call_later)

    def load(self) -> Thing:
        self.loads += 1
        assert self.may_load.wait(timeout=60)
        if self.fails:
            raise WorkerFailed("no room")
        return Thing()

    @property
    def thing(self) -> Thing:
        assert self.residence.resident is not None
        return self.residence.resident

    async def use(self) -> Thing:
        async with self.residence.use() as thing:
            assert not thing.is_closed
            return thing

    async def cool(self) -> None:
        """Unloaded, and done with that."""
        await self.use()
        thing = self.thing
        self.timers.go_off()
        await settle(lambda: thing.is_closed)

    async def hold_loading(self, users: int) -> list[asyncio.Task[Thing]]:
        """So many who wait for what is being loaded."""
        loads = self.loads
        self.may_load.clear()
        waiting = [asyncio.create_task(self.use()) for _ in range(users)]
        await until(lambda: self.loads > loads)
        return waiting


async def until(is_so: Callable[[], bool]) -> None:
    """What another thread brings about, which takes time."""
    await settle(is_so, max_turns=10_000_000)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    site.may_load.set()
    await site.residence.close()
    assert site.timers.delays_s == []


async def test_it_stays_while_it_is_used_and_idles_from_its_last_user_on(site: Site) -> None:
    thing = site.thing
    async with site.residence.use() as first:
        async with site.residence.use() as second:
            assert first is second is thing
        assert site.timers.delays_s == []
    assert site.timers.delays_s == [IDLE_S]
    async with site.residence.use():
        assert site.timers.delays_s == [], "whoever comes in time keeps it"
    assert site.timers.delays_s == [IDLE_S]
    site.timers.go_off()
    assert site.residence.resident is None
    await settle(lambda: thing.is_closed)


async def test_it_idles_from_the_start_when_told_so(site: Site) -> None:
    site.residence.begin_idling()
    site.residence.begin_idling()
    assert site.timers.delays_s == [IDLE_S]


async def test_a_user_that_fails_has_used_it(site: Site) -> None:
    with pytest.raises(ZeroDivisionError):
        async with site.residence.use():
            raise ZeroDivisionError
    assert site.timers.delays_s == [IDLE_S]


async def test_for_ever() -> None:
    site = Site(idle_s=None)
    await site.use()
    site.residence.begin_idling()
    assert site.timers.delays_s == []
    await site.residence.close()


async def test_it_is_gone_before_it_is_called_unloaded(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """No reference is left by then, so that its memory can go back to the machine."""
    caplog.set_level(logging.INFO)
    thing = weakref.ref(site.thing)
    left: list[bool] = []

    def note(record: logging.LogRecord) -> bool:
        left.append(thing() is not None)
        return True

    caplog.handler.addFilter(note)
    gc.disable()
    try:
        site.residence.begin_idling()
        site.timers.go_off()
        await until(lambda: bool(left))
    finally:
        gc.enable()
        caplog.handler.removeFilter(note)
    assert caplog.messages == ["thing is unloaded: nobody asked for it for 5 s"]
    assert left == [False]


async def test_however_many_ask_it_is_loaded_once(site: Site) -> None:
    await site.cool()
    waiting = await site.hold_loading(users=5)
    assert site.residence.resident is None
    site.may_load.set()
    things = await asyncio.gather(*waiting)
    assert set(things) == {site.thing}
    assert site.loads == 1
    assert site.timers.delays_s == [IDLE_S]


async def test_who_stops_waiting_does_not_stop_the_loading(site: Site) -> None:
    await site.cool()
    first, second = await site.hold_loading(users=2)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    site.may_load.set()
    assert await second is site.thing
    assert site.loads == 1


async def test_loaded_for_nobody_it_stays_for_a_while(site: Site) -> None:
    await site.cool()
    (only,) = await site.hold_loading(users=1)
    only.cancel()
    with pytest.raises(asyncio.CancelledError):
        await only
    site.may_load.set()
    await until(lambda: site.residence.resident is not None)
    assert site.timers.delays_s == [IDLE_S]
    assert await site.use() is site.thing
    assert site.loads == 1


async def test_who_comes_while_it_is_unloaded_gets_another_one(site: Site) -> None:
    old = site.thing
    old.may_close.clear()
    site.residence.begin_idling()
    site.timers.go_off()
    coming = asyncio.create_task(site.use())
    await old.closing.wait()
    assert site.loads == 0, "there is no room for two"
    old.may_close.set()
    assert await coming is not old
    assert site.loads == 1


async def test_who_comes_as_the_time_is_up_gets_another_one(site: Site) -> None:
    """The timer goes off and a user comes, in one turn of the event loop."""
    old = site.thing
    site.residence.begin_idling()
    coming = asyncio.create_task(site.use())
    site.timers.go_off()
    assert await coming is not old


async def test_a_failure_is_told_to_all_who_wait_and_to_who_comes_too_soon(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.cool()
    site.fails = True
    waiting = await site.hold_loading(users=3)
    site.may_load.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["no room"] * 3
    assert site.residence.has_just_failed
    with pytest.raises(WorkerFailed, match="no room"):
        await site.use()
    assert site.loads == 1, "it is too early for another attempt"
    assert site.timers.delays_s == [RETRY_S], "and who asked has not put it off"
    assert ("thing is not offered for the next 60 s", logging.WARNING) in [
        (record.getMessage(), record.levelno) for record in caplog.records
    ]
    site.fails = False
    site.timers.go_off()
    assert not site.residence.has_just_failed
    assert site.residence.resident is None
    assert await site.use() is site.thing


async def test_attempts_become_rarer_until_one_succeeds(site: Site) -> None:
    await site.cool()
    site.fails = True
    delays_s = []
    for _ in range(MAX_DOUBLINGS + 2):
        with pytest.raises(WorkerFailed):
            await site.use()
        delays_s += site.timers.delays_s
        site.timers.go_off()
    assert delays_s == [60, 120, 240, 480, 960, 1920, 3840, 3840]
    site.fails = False
    await site.cool()
    site.fails = True
    with pytest.raises(WorkerFailed):
        await site.use()
    assert site.timers.delays_s == [RETRY_S]


async def test_closing_it(site: Site) -> None:
    thing = await site.use()
    await site.residence.close()
    await site.residence.close()
    assert thing.is_closed
    with pytest.raises(WorkerFailed, match="stopping"):
        await site.use()
    assert site.loads == 0
    assert site.timers.delays_s == []


async def test_closing_it_under_its_user(site: Site) -> None:
    async with site.residence.use() as thing:
        await site.residence.close()
        assert thing.is_closed
    assert site.timers.delays_s == []


async def test_closing_it_while_it_is_loaded(site: Site) -> None:
    """Loading cannot be stopped: what it gives is closed at once, and who waited for it is told."""
    await site.cool()
    (waiting,) = await site.hold_loading(users=1)
    closing = asyncio.create_task(site.residence.close())
    await asyncio.sleep(0)
    assert not closing.done()
    site.may_load.set()
    await closing
    assert site.residence.resident is None
    with pytest.raises(WorkerFailed, match="stopping"):
        await waiting


async def test_closing_it_while_loading_fails(site: Site) -> None:
    await site.cool()
    site.fails = True
    (waiting,) = await site.hold_loading(users=1)
    closing = asyncio.create_task(site.residence.close())
    await asyncio.sleep(0)
    site.may_load.set()
    await closing
    assert site.timers.delays_s == []
    with pytest.raises(WorkerFailed, match="stopping"):
        await waiting


async def test_closing_it_while_it_is_loaded_for_nobody(site: Site) -> None:
    await site.cool()
    (waiting,) = await site.hold_loading(users=1)
    waiting.cancel()
    closing = asyncio.create_task(site.residence.close())
    await asyncio.sleep(0)
    site.may_load.set()
    await closing
    assert site.timers.delays_s == []
    assert site.residence.resident is None


async def test_closing_it_while_it_is_unloaded(site: Site) -> None:
    thing = site.thing
    thing.may_close.clear()
    site.residence.begin_idling()
    site.timers.go_off()
    coming = asyncio.create_task(site.use())
    await thing.closing.wait()
    closing = asyncio.create_task(site.residence.close())
    await asyncio.sleep(0)
    thing.may_close.set()
    await closing
    assert thing.is_closed
    with pytest.raises(WorkerFailed, match="stopping"):
        await coming
    assert site.loads == 0


async def test_closing_it_after_a_failure(site: Site) -> None:
    await site.cool()
    site.fails = True
    with pytest.raises(WorkerFailed):
        await site.use()
    await site.residence.close()
    assert site.timers.delays_s == []
