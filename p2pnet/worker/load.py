"""How busy this worker is: counts places, and measures its speed. Knows nothing of models or of the network."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from p2pnet.errors import Busy
from p2pnet.messages import Load

SPEED_SMOOTHING = 0.2
"""Weight of the newest request in the moving average: about the last ten requests count."""


class Place:
    """One request's place."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = free
        self._is_held = True

    def release(self) -> None:
        """Give it back before the last frame is sent: who has read that frame may ask again at once. Idempotent."""
        if self._is_held:
            self._is_held = False
            self._free()


class LoadMeter:
    """The places of one worker. A request holds one from its first frame until its answer is complete."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held = 0
        self._open = 0
        self._computing = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self.requests_served = 0
        self.tokens_served = 0
        self.tokens_per_s: float | None = None

    @property
    def load(self) -> Load:
        return Load(running=self._computing, queued=self._held - self._computing, slots=self._slots)

    async def wait_idle(self) -> None:
        await self._is_idle.wait()

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Hold one place. Raises Busy when all are taken."""
        if self._held >= self._slots:
            raise Busy(f"all {self._slots} places of this worker are taken")
        self._held += 1
        self._open += 1
        self._is_idle.clear()
        place = Place(self._release)
        try:
            yield place
        finally:
            place.release()
            self._open -= 1
            if not self._open:
                self._is_idle.set()

    def _release(self) -> None:
        self._held -= 1

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """While tokens are coming."""
        self._computing += 1
        try:
            yield
        finally:
            self._computing -= 1

    def count(self, tokens: int, duration_s: float) -> None:
        """One request is complete: `tokens` in the `duration_s` since its first one, waiting not included."""
        self.requests_served += 1
        self.tokens_served += tokens
        if duration_s > 0 and tokens > 1:
            speed = (tokens - 1) / duration_s
            average = self.tokens_per_s
            self.tokens_per_s = speed if average is None else average + SPEED_SMOOTHING * (speed - average)
