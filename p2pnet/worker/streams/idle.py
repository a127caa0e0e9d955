"""Holds the places of streams that gateways keep for their next requests, and says who gives one up.

A place costs a request that was answered, and nobody is hurt who loses one: a gateway opens another stream. So whoever
comes gets one, and the oldest goes. Knows nothing of what is asked, nor of streams.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

MAX_IDLE_PER_GATEWAY = 64
"""Streams that one gateway may keep here: as many as it has use for."""

MAX_IDLE_STREAMS = 256
"""And all gateways together: a sixth of the streams that others may have open to this peer. Each costs a file and some
50 kB."""


class IdleStreams:
    """All of one worker's."""

    def __init__(self) -> None:
        self._give_up: dict[object, tuple[str, Callable[[], None]]] = {}
        """By place, in the order in which they were taken."""
        self._held: Counter[str] = Counter()
        self._is_over = False

    def __len__(self) -> int:
        return len(self._give_up)

    @contextlib.contextmanager
    def place(self, gateway: str, give_up: Callable[[], None]) -> Iterator[None]:
        """Hold a place while a stream is idle. `give_up` is called when it becomes another's, or there are none any
        more, which may be at once; then it has to end."""
        place = object()
        if self._held[gateway] >= MAX_IDLE_PER_GATEWAY:
            self._give_up_first(gateway)
        elif len(self) >= MAX_IDLE_STREAMS:
            self._give_up_first()
        self._give_up[place] = gateway, give_up
        self._held[gateway] += 1
        if self._is_over:
            self._give_up_first()
        try:
            yield
        finally:
            self._leave(place)

    def close(self) -> None:
        """All are given up, those too that have been asked their last and are idle only later."""
        self._is_over = True
        while self._give_up:
            self._give_up_first()

    def _give_up_first(self, gateway: str | None = None) -> None:
        """The oldest, or the oldest of a gateway."""
        oldest = next(place for place, (holder, _) in self._give_up.items() if gateway in (None, holder))
        _, give_up = self._give_up[oldest]
        self._leave(oldest)
        give_up()

    def _leave(self, place: object) -> None:
        """Idempotent."""
        if place in self._give_up:
            gateway, _ = self._give_up.pop(place)
            self._held[gateway] -= 1
            if not self._held[gateway]:
                del self._held[gateway]
