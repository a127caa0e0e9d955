"""Keeps loops going that are to go on for ever, beside everything else: whatever one raises is logged, and it begins
again. Knows nothing of what they do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

LOOP_PAUSE_S = 1.0
"""Before a loop that has ended begins again: one that ends at once, every time, costs nothing and fills no log."""

Work = Callable[[], Awaitable[None]]

Sleep = Callable[[float], Awaitable[object]]


async def kept_up(what: str, work: Work, sleep: Sleep = asyncio.sleep) -> None:
    """Do it for ever: whatever it raises, it is needed as before. `what` it is begins a line in the log."""
    while True:
        try:
            await work()
        except Exception:
            logger.exception("%s was interrupted; it begins again", what)
        await sleep(LOOP_PAUSE_S)


class Background:
    """The loops of one owner. They end with `stop`, and with nothing else."""

    def __init__(self, sleep: Sleep = asyncio.sleep) -> None:
        self._sleep = sleep
        self._tasks: list[asyncio.Task[None]] = []

    def keep(self, what: str, work: Work) -> None:
        """Begin with one: see `kept_up`."""
        self._tasks.append(asyncio.create_task(kept_up(what, work, self._sleep), name=what))

    async def stop(self) -> None:
        """End them, and wait until they have ended. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
