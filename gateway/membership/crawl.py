"""Says which part of the list of all workers is read next, and how soon. Asks nobody.

The list is for people: what clients ask for is looked up by itself. So its cost has a bound in a network of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pnet.directory import SHARDS

CRAWL_INTERVAL_S = 2.0
"""Between two looks. A small network is read whole each time."""

CRAWLED_WHOLE = 256
"""With more workers than this, one of the keys over which the list is spread is read at a time."""

PAUSE_FOR_A_WORKER_S = 0.05
"""A whole look is followed by the next one so much later for each worker that is known: it is that much longer, too."""

PAUSE_AFTER_A_PART_S = 7.0
"""A large network's list is read once in two and a half minutes, before its records have expired, for some two calls
and thirty kilobytes a second."""


class Crawl:
    """That of one gateway."""

    def __init__(self, interval_s: float = CRAWL_INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._next = 0

    def due(self, known: int) -> Sequence[int]:
        """Which shards to read now, when so many workers are known."""
        if known <= CRAWLED_WHOLE:
            return range(SHARDS)
        self._next = (self._next + 1) % SHARDS
        return (self._next,)

    def pause_s(self, known: int) -> float:
        """How long to wait then."""
        is_whole = known <= CRAWLED_WHOLE
        return self._interval_s + (PAUSE_FOR_A_WORKER_S * known if is_whole else PAUSE_AFTER_A_PART_S)
