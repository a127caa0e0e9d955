"""Says when this machine's clock runs off while a peer runs: what it announces would expire early, or be refused.

Compares it with other peers' clocks, of which some may lie, and with a steady one of its own, which nobody can touch.
Is handed all of them, and knows nothing of how peers are asked.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LOOK_S = 20.0
"""How often others are asked: what is off is said within a minute, though one look may fail."""

MAX_OFF_S = 2.0
"""From here on it is said: peers whose clocks differ by 3 s do not let one another in, and refuse records by 5 s."""

MIN_VOTES = 3
"""Of so many clocks the median is believed: one that is wrong, or lies, moves it little. Of fewer the nearest to ours
is: whoever is wrong himself must not accuse us."""

SAY_AGAIN_S = 600.0
"""A clock that stays off is said again after this."""

FIX = "Set it, for instance with: timedatectl set-ntp true"

Measure = Callable[[], Awaitable[Sequence[float]]]
"""By how many seconds the clocks of some other peers are ahead of ours; none of those that do not answer."""


@dataclass(frozen=True)
class ClockState:
    """`ahead_s` is by how much ours is ahead of others', negative when it is behind; 0 is near enough. `peers` is of
    how many: 0 when nobody could be asked, and ours has jumped by so much since somebody could. `moved_s` is how
    far ours has moved against the steady one since others said that it is right."""

    ahead_s: float = 0.0
    peers: int = 0
    moved_s: float = 0.0

    @property
    def is_off(self) -> bool:
        return abs(self.ahead_s) > MAX_OFF_S

    @property
    def has_jumped(self) -> bool:
        """Whether it is off by others' word and by what can be seen here, the same way. Others alone may lie, and a
        clock that has moved may have been set right."""
        is_seen = abs(self.moved_s) > MAX_OFF_S and (self.moved_s > 0) == (self.ahead_s > 0)
        return self.is_off and self.peers > 0 and is_seen

    @property
    def says(self) -> str:
        """For a person: nothing when all is well."""
        if not self.is_off:
            return ""
        if not self.peers:
            return (
                f"this machine's clock was moved by {self.ahead_s:+.0f} s, and no peer can be asked whether it is right"
            )
        way = "ahead of" if self.ahead_s > 0 else "behind"
        whose = f"those of {self.peers} peers" if self.peers > 1 else "that of the one peer that answers"
        return f"this machine's clock is {abs(self.ahead_s):.0f} s {way} {whose}"


IN_TIME = ClockState()
"""That of a clock of which nothing else is known."""


def since_boot_s() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps, where the system has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def judge(others_ahead_s: Sequence[float], moved_s: float) -> ClockState:
    """What other clocks say of ours; where none answers, how far ours has moved against the steady one counts."""
    if not others_ahead_s:
        return ClockState(moved_s, 0, moved_s)
    is_vote = len(others_ahead_s) >= MIN_VOTES
    theirs_s = statistics.median(others_ahead_s) if is_vote else min(others_ahead_s, key=abs)
    return ClockState(-theirs_s, len(others_ahead_s), moved_s)


class ClockWatch:
    """Watches one machine's clock. Run `run` as a task; `state` is that of the last look."""

    def __init__(
        self,
        measure: Measure,
        now_ms: Callable[[], int],
        steady_s: Callable[[], float] | None = None,
    ) -> None:
        self._measure = measure
        self._now_ms = now_ms
        self._steady_s = steady_s or since_boot_s
        self._right_s = self._between()
        self._said_s = float("-inf")
        self.state = IN_TIME

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Look for ever. It ends with its task."""
        while True:
            await sleep(LOOK_S)
            try:
                await self.look()
            except Exception:  # the edge: one bad look must not be the last one
                logger.exception("other clocks could not be asked")

    async def look(self) -> None:
        """Ask others once, and say what has changed."""
        others = await self._measure()
        before, self.state = self.state, judge(others, self._between() - self._right_s)
        if others and not self.state.is_off:
            self._right_s = self._between()
        self._say(before)

    def _between(self) -> float:
        """How far our clock is from the steady one: always the same, as long as nobody sets it."""
        return self._now_ms() / 1000 - self._steady_s()

    def _say(self, before: ClockState) -> None:
        now_s = self._steady_s()
        if self.state.is_off and (not before.is_off or now_s - self._said_s >= SAY_AGAIN_S):
            self._said_s = now_s
            logger.warning("%s: others may refuse what it announces. %s", self.state.says, FIX)
        elif before.is_off and not self.state.is_off:
            logger.info("this machine's clock is right again")
