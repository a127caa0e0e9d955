"""Keeps the reasons why a worker is paused: it serves while there is none. Says each change in one line of the log.

Knows nothing of clocks, signals or networks.
"""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto

logger = logging.getLogger(__name__)


class Reason(Enum):
    MANUAL = auto()
    SCHEDULE = auto()
    BUSY = auto()
    WRONG_CLOCK = auto()


class Pauses:
    """The reasons that hold at this moment."""

    def __init__(self) -> None:
        self._why: dict[Reason, str] = {}
        self._has_changed = asyncio.Event()

    def __contains__(self, reason: Reason) -> bool:
        return reason in self._why

    @property
    def is_paused(self) -> bool:
        return bool(self._why)

    @property
    def state(self) -> str:
        """`serving`, or `paused` with why and until when."""
        return f"paused {'; and '.join(self._why.values())}" if self._why else "serving"

    def add(self, reason: Reason, why: str) -> None:
        """Pause for one more reason. `why` goes on where "paused" ends, and says what must happen to go on."""
        if reason in self._why:
            return
        logger.info("%s %s", "also paused" if self._why else "paused", why)
        self._why[reason] = why
        self._has_changed.set()

    def remove(self, reason: Reason, because: str) -> None:
        """Remove one reason. `because` says why it is gone."""
        if reason not in self._why:
            return
        del self._why[reason]
        logger.info("%s: %s", because, f"still {self.state}" if self._why else "serving again")
        self._has_changed.set()

    async def wait_changed(self) -> None:
        """Return once something has changed since the last time."""
        await self._has_changed.wait()
        self._has_changed.clear()
