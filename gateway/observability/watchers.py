"""Lets in those who watch this gateway live, up to a limit, and lets them go when it stops.

Knows nothing of what they are shown, nor how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from p2pnet.errors import Busy

MAX_WATCHERS = 64
"""Pages that are open at the same time. Each costs a look a second, and some 10 kB/s where there is much to see."""


class Watchers:
    """Those who watch one gateway."""

    def __init__(self, max_watchers: int = MAX_WATCHERS) -> None:
        self._max_watchers = max_watchers
        self._closing = asyncio.Event()
        self.count = 0

    @contextmanager
    def watching(self) -> Iterator[asyncio.Event]:
        """One watcher, who leaves when the event is set. Raises Busy when there are too many."""
        if self.count >= self._max_watchers:
            raise Busy(f"{self._max_watchers} pages watch this gateway already.")
        self.count += 1
        try:
            yield self._closing
        finally:
            self.count -= 1

    def close(self) -> None:
        """Let all of them go: the gateway stops, and watching must not keep it from that."""
        self._closing.set()
