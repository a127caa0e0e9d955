"""Holds the places of gateways that watch this worker, and says who gives up one when there are too many.

Gateways are free to invent. So one that has been served here takes the place of one that has not. Knows nothing of
streams.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from p2pnet.errors import Busy

MAX_WATCHERS = 128
"""Gateways told at the same time, each some hundred bytes a second, and a hundred microseconds: 2 % of a core. Others
probe, as those of earlier versions do."""

MAX_WATCHERS_PER_GATEWAY = 2
"""A gateway that has lost its connection opens the next stream before this worker knows."""


class Place:
    """One watcher's."""

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway
        self.is_held = True

    def check(self) -> None:
        """Raises Busy when it has become another's."""
        if not self.is_held:
            raise Busy("others watch this worker now")


class Watchers:
    """Those of one worker. `is_known` says whether a gateway has been served here."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self._places: dict[Place, None] = {}

    def __len__(self) -> int:
        return len(self._places)

    @contextlib.contextmanager
    def place(self, gateway: str) -> Iterator[Place]:
        """Hold a place. Raises Busy when there is none."""
        own = [place for place in self._places if place.gateway == gateway]
        if len(own) >= MAX_WATCHERS_PER_GATEWAY:
            self._give_up(own[0])
        elif len(self._places) >= MAX_WATCHERS:
            strangers = (place for place in self._places if not self._is_known(place.gateway))
            oldest = next(strangers, None)
            if oldest is None or not self._is_known(gateway):
                raise Busy(f"{MAX_WATCHERS} gateways watch this worker already")
            self._give_up(oldest)
        place = Place(gateway)
        self._places[place] = None
        try:
            yield place
        finally:
            self._places.pop(place, None)

    def _give_up(self, place: Place) -> None:
        place.is_held = False
        del self._places[place]
