"""The owner's wishes: signals, hours and a busy machine, alone and together, and what the log says of each change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import psutil
import pytest

from p2pnet.errors import Draining
from p2pnet.flow.background import LOOP_PAUSE_S
from p2pnet.worker.owner.busy import SAMPLE_INTERVAL_S, Use
from p2pnet.worker.owner.owner import CLOCK_INTERVAL_S, FAULT_INTERVAL_S, Owner
from p2pnet.worker.owner.schedule import Schedule
from tests.stories import settle

MONDAY_NOON = datetime(2026, 1, 5, 12, 0)


class Site:
    """A machine whose clock and use are what a test says, and the worker that its owner pauses."""

    def __init__(self, schedule: str | None = None, busy_percent: float | None = None) -> None:
        self.now = MONDAY_NOON
        self.percent = 0.0
        self.failing: Exception | None = None
        self.told: list[bool] = []
        self.fault = ""
        self._use = Use(0.0, 0.0, cores=2)
        self._sleepers: dict[float, asyncio.Event] = {}
        self.owner = Owner(
            Schedule.parse(schedule) if schedule else None, busy_percent, lambda: self.now, self._measure, self._sleep
        )

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        self.owner.look_at_clock()
        self.owner.start(self._set_paused, lambda: self.fault)
        yield
        await self.owner.stop()
        assert len(asyncio.all_tasks()) == 1

    async def at(self, time: datetime) -> None:
        """Let the clock say this, and the owner look at it."""
        self.now = time
        await self._turn(CLOCK_INTERVAL_S)

    async def clock_says(self, fault: str) -> None:
        """Let others say this of the clock."""
        self.fault = fault
        await self._turn(FAULT_INTERVAL_S)

    async def used(self, percent: float, samples: int) -> None:
        """Let other programs use so much, for so many samples."""
        self.percent = percent
        for _ in range(samples):
            await self._turn(SAMPLE_INTERVAL_S)

    async def _set_paused(self, is_paused: bool) -> None:
        self.told.append(is_paused)

    async def _measure(self) -> Use:
        if self.failing is not None:
            raise self.failing
        used_s = self.percent / 100 * SAMPLE_INTERVAL_S * self._use.cores
        self._use = Use(self._use.at_s + SAMPLE_INTERVAL_S, self._use.cpu_s + used_s, self._use.cores)
        return self._use

    async def _sleep(self, seconds: float) -> None:
        self._sleepers[seconds] = asyncio.Event()
        await self._sleepers[seconds].wait()

    async def _turn(self, interval_s: float) -> None:
        """Wake who sleeps that long, and wait until it sleeps again."""
        await settle(lambda: interval_s in self._sleepers)
        self._sleepers.pop(interval_s).set()
        await settle(lambda: interval_s in self._sleepers)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("p2pnet")]


@pytest.fixture(autouse=True)
def log_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


async def test_a_look_at_the_clock_that_fails_is_not_the_last_one() -> None:
    site = Site()
    faults = iter([KeyError("bug")])

    def fault() -> str:
        for error in faults:
            raise error
        return "the clock is wrong"

    site.owner.start(site._set_paused, fault)
    await settle(lambda: LOOP_PAUSE_S in site._sleepers)
    site._sleepers.pop(LOOP_PAUSE_S).set()
    await settle(lambda: site.owner.is_paused)
    await site.owner.stop()


async def test_without_wishes_it_serves() -> None:
    site = Site()
    async with site.watched():
        assert not site.owner.is_paused
        assert site.owner.state == "serving"
        assert site.owner.refusal() is None
    assert site.told == []


async def test_a_signal_pauses_and_the_next_one_resumes(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    async with site.watched():
        site.owner.toggle()
        refusal = site.owner.refusal()
        assert isinstance(refusal, Draining)
        assert refusal.message == "the owner of this worker is using it"
        await settle(lambda: site.told == [True])
        site.owner.toggle()
        assert site.owner.refusal() is None
        await settle(lambda: site.told == [True, False])
    assert lines(caplog) == [
        "paused by SIGUSR1, until it comes again",
        "SIGUSR1 came again: serving again",
    ]


async def test_a_wrong_clock_pauses_and_a_right_one_resumes(caplog: pytest.LogCaptureFixture) -> None:
    site, fault = Site(), "this machine's clock is 60 s behind those of 5 peers"
    async with site.watched():
        for _ in range(3):
            await site.clock_says(fault)
        assert site.owner.state == f"paused while {fault}, until it is right again"
        refusal = site.owner.refusal()
        assert isinstance(refusal, Draining) and refusal.message == "the clock of this worker is wrong"
        site.owner.toggle()
        await site.clock_says("")
        assert site.owner.is_paused, "its owner has paused it meanwhile"
        site.owner.toggle()
        await settle(lambda: site.told[-1:] == [False])
    assert lines(caplog) == [
        f"paused while {fault}, until it is right again",
        "also paused by SIGUSR1, until it comes again",
        "this machine's clock is right again: still paused by SIGUSR1, until it comes again",
        "SIGUSR1 came again: serving again",
    ]


async def test_signals_in_quick_succession_end_in_the_last_state() -> None:
    site = Site()
    async with site.watched():
        for _ in range(5):
            site.owner.toggle()
        await settle(lambda: site.told[-1:] == [True])
        assert site.owner.is_paused


async def test_a_signal_before_the_worker_starts_counts() -> None:
    """While a model is loading, for instance."""
    site = Site()
    site.owner.toggle()
    async with site.watched():
        await settle(lambda: site.told == [True])


async def test_hours_open_and_close(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("22:00-07:00")
    async with site.watched():
        assert site.owner.state == "paused until 22:00, as the schedule says"
        await site.at(MONDAY_NOON.replace(hour=21, minute=59, second=59))
        assert site.owner.is_paused
        await site.at(MONDAY_NOON.replace(hour=22))
        assert not site.owner.is_paused
        await settle(lambda: site.told[-1:] == [False])
        await site.at(MONDAY_NOON + timedelta(hours=18))
        assert not site.owner.is_paused
        await site.at(MONDAY_NOON + timedelta(hours=19))
        assert site.owner.is_paused
        await settle(lambda: site.told[-1:] == [True])
    assert lines(caplog) == [
        "paused until 22:00, as the schedule says",
        "the schedule lends this machine until 07:00: serving again",
        "paused until 22:00, as the schedule says",
    ]


async def test_a_day_is_named_where_it_is_another() -> None:
    site = Site("sat 10:00-12:00")
    async with site.watched():
        assert site.owner.state == "paused until Sat 10:00, as the schedule says"


async def test_always_open_is_not_until_anything() -> None:
    site = Site("00:00-24:00")
    async with site.watched():
        await site.at(MONDAY_NOON + timedelta(hours=1))
        assert site.owner.state == "serving"


async def test_a_clock_that_is_set_is_followed() -> None:
    """Back as well as ahead, as a change of the clock or a machine that slept may have it."""
    site = Site("12:00-13:00")
    async with site.watched():
        for time, is_paused in (
            (MONDAY_NOON, False),
            (MONDAY_NOON + timedelta(days=3, hours=5), True),
            (MONDAY_NOON + timedelta(minutes=30), False),
            (MONDAY_NOON - timedelta(minutes=1), True),
        ):
            await site.at(time)
            assert site.owner.is_paused is is_paused


async def test_a_busy_machine_pauses_until_it_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    site = Site(busy_percent=50)
    async with site.watched():
        await site.used(80, 5)
        assert site.owner.is_paused
        await settle(lambda: site.told == [True])
        await site.used(40, 100)
        assert site.owner.is_paused
        await site.used(10, 20)
        assert not site.owner.is_paused
        await settle(lambda: site.told == [True, False])
    assert lines(caplog) == [
        "paused while other programs use this machine (80 %, over 50 %), until it is under 37.5 % for 60 s",
        "other programs have been under 37.5 % for 60 s: serving again",
    ]


@pytest.mark.parametrize("failure", [OSError("no /proc"), psutil.AccessDenied(1)], ids=["OSError", "psutil"])
async def test_a_machine_that_cannot_be_measured_is_said_once_and_tried_on(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(busy_percent=50)
    site.failing = failure
    async with site.watched():
        await site.used(100, 5)
        assert not site.owner.is_paused
        assert len(lines(caplog)) == 1
        assert "cannot be measured" in caplog.text
        site.failing = None
        await site.used(100, 5)
        assert site.owner.is_paused


async def test_it_serves_only_when_no_reason_is_left(caplog: pytest.LogCaptureFixture) -> None:
    site = Site("22:00-07:00", busy_percent=50)
    async with site.watched():
        site.owner.toggle()
        await site.used(90, 5)
        await site.at(MONDAY_NOON.replace(hour=23))
        site.owner.toggle()
        await settle(lambda: site.told[-1:] == [True])
        assert site.owner.is_paused
        await site.used(0, 30)
        assert not site.owner.is_paused
        await settle(lambda: site.told[-1:] == [False])
    busy = "while other programs use this machine (90 %, over 50 %), until it is under 37.5 % for 60 s"
    assert lines(caplog) == [
        "paused until 22:00, as the schedule says",
        "also paused by SIGUSR1, until it comes again",
        f"also paused {busy}",
        f"the schedule lends this machine until 07:00: still paused by SIGUSR1, until it comes again; and {busy}",
        f"SIGUSR1 came again: still paused {busy}",
        "other programs have been under 37.5 % for 60 s: serving again",
    ]


async def test_an_owner_who_never_started_can_stop() -> None:
    await Owner().stop()
