"""Watches the clock, the machine's use and the owner's signals, and pauses and resumes a worker.

Knows nothing of the directory, of other peers or of requests: it is given what to call and to ask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial

import psutil

from p2pnet.errors import Draining, P2PNetError
from p2pnet.flow.background import Background
from p2pnet.worker.owner.busy import QUIET_S, SAMPLE_INTERVAL_S, BusyJudge, Use
from p2pnet.worker.owner.pauses import Pauses, Reason
from p2pnet.worker.owner.schedule import Schedule
from p2pnet.worker.owner.use import UseMeter

logger = logging.getLogger(__name__)

CLOCK_INTERVAL_S = 10.0
"""How often the schedule is held against the clock: a clock that is set, and a machine that slept, are noticed too."""


FAULT_INTERVAL_S = 2.0
"""How often it is looked at what others say of the clock. They are asked every 20 s."""


class Owner:
    """The owner's wishes: when to lend the machine, and how busy it may be. Without any it is lent until `toggle`."""

    def __init__(
        self,
        schedule: Schedule | None = None,
        busy_percent: float | None = None,
        now: Callable[[], datetime] = datetime.now,
        measure: Callable[[], Awaitable[Use]] | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._schedule = schedule
        self._judge = None if busy_percent is None else BusyJudge(busy_percent)
        self._now = now
        self._measure = measure or UseMeter()
        self._sleep = sleep
        self._pauses = Pauses()
        self._background = Background(sleep)

    @property
    def is_paused(self) -> bool:
        return self._pauses.is_paused

    @property
    def state(self) -> str:
        """`serving`, or `paused` with why and until when."""
        return self._pauses.state

    def refusal(self) -> P2PNetError | None:
        """What a new request is told while the machine is not lent."""
        if Reason.WRONG_CLOCK in self._pauses:
            return Draining("the clock of this worker is wrong")
        return Draining("the owner of this worker is using it") if self.is_paused else None

    def toggle(self) -> None:
        """Pause, or end such a pause."""
        if Reason.MANUAL in self._pauses:
            self._pauses.remove(Reason.MANUAL, "SIGUSR1 came again")
        else:
            self._pauses.add(Reason.MANUAL, "by SIGUSR1, until it comes again")

    def look_at_clock(self) -> None:
        """Compare the schedule with the clock."""
        if self._schedule is None:
            return
        now = self._now()
        change = self._schedule.next_change(now)
        if self._schedule.is_open(now):
            until = "" if change is None else f" until {_short(change, now)}"
            self._pauses.remove(Reason.SCHEDULE, f"the schedule lends this machine{until}")
        else:
            assert change is not None, "a schedule has hours in which it is open"
            self._pauses.add(Reason.SCHEDULE, f"until {_short(change, now)}, as the schedule says")

    def start(self, set_paused: Callable[[bool], Awaitable[None]], clock_fault: Callable[[], str] = str) -> None:
        """Watch in the background. `set_paused` is told of every change, and must bear to be told the same twice.
        `clock_fault` says what is wrong with the clock: nothing when all is well."""
        self._background.keep("pausing for the owner", partial(self._follow, set_paused))
        self._background.keep("watching for a wrong clock", partial(self._watch_fault, clock_fault))
        if self._schedule is not None:
            self._background.keep("following the schedule", self._watch_clock)
        if self._judge is not None:
            self._background.keep("watching how busy this machine is", partial(self._watch_use, self._judge))

    async def stop(self) -> None:
        """Stop watching. What is paused stays so."""
        await self._background.stop()

    async def _follow(self, set_paused: Callable[[bool], Awaitable[None]]) -> None:
        while True:
            await self._pauses.wait_changed()
            await set_paused(self.is_paused)

    async def _watch_clock(self) -> None:
        while True:
            self.look_at_clock()
            await self._sleep(CLOCK_INTERVAL_S)

    async def _watch_fault(self, clock_fault: Callable[[], str]) -> None:
        """What is announced by a wrong clock is refused by all, or expires at once: nobody is to wait for it."""
        while True:
            if fault := clock_fault():
                self._pauses.add(Reason.WRONG_CLOCK, f"while {fault}, until it is right again")
            else:
                self._pauses.remove(Reason.WRONG_CLOCK, "this machine's clock is right again")
            await self._sleep(FAULT_INTERVAL_S)

    async def _watch_use(self, judge: BusyJudge) -> None:
        has_complained = False
        while True:
            try:
                self._heed(judge, judge.add(await self._measure()))
            except (OSError, psutil.Error) as error:
                if not has_complained:
                    logger.warning("how busy this machine is cannot be measured: %s; trying on", error)
                has_complained = True
            await self._sleep(SAMPLE_INTERVAL_S)

    def _heed(self, judge: BusyJudge, is_busy: bool) -> None:
        quiet = f"under {judge.quiet_percent:g} % for {QUIET_S:.0f} s"
        if is_busy:
            limit = f"{judge.percent:.0f} %, over {judge.threshold_percent:g} %"
            self._pauses.add(Reason.BUSY, f"while other programs use this machine ({limit}), until it is {quiet}")
        else:
            self._pauses.remove(Reason.BUSY, f"other programs have been {quiet}")


def _short(at: datetime, now: datetime) -> str:
    """The time of day, with the weekday if it is a day away or more."""
    return f"{at:%H:%M}" if at - now < timedelta(days=1) else f"{at:%a %H:%M}"
