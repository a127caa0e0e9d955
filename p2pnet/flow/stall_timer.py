"""Times many short waits with one timer. Knows nothing of what is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class StallTimer:
    """Calls `on_exhausted` when one wait, from `begin` to `end`, lasts `limit_s`.

    A stream waits thousands of times a second, and almost never long: instead of a timer per wait, one timer looks
    now and then at how old the present wait is.
    """

    def __init__(self, limit_s: float, on_exhausted: Callable[[], object]) -> None:
        self.is_exhausted = False
        self._limit_s = limit_s
        self._on_exhausted = on_exhausted
        self._loop = asyncio.get_running_loop()
        self._began_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.is_exhausted = False
        self._began_s = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._began_s + self._limit_s, self._look)

    def end(self) -> None:
        self._began_s = None

    def close(self) -> None:
        self.end()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._began_s is None:
            return
        due_s = self._began_s + self._limit_s
        if self._loop.time() < due_s:
            self._timer = self._loop.call_at(due_s, self._look)
        else:
            self._began_s = None
            self.is_exhausted = True
            self._on_exhausted()
