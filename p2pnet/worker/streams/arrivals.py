"""Holds the places of requests that are still arriving, and says who gives up one when there are too many.

A place costs a stranger nothing, so nobody keeps one for long: whoever comes gets in, and the oldest goes. Gateways
that have been served have places of their own. Knows nothing of what is asked, nor of streams.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from p2pnet.errors import Busy

MAX_UNREAD_REQUESTS = 64
"""Requests of strangers that arrive at the same time, and as many of gateways that have been served. A request that is
sent whole arrives within a round trip: to push it out, 64 streams have to be opened meanwhile."""

MAX_UNREAD_PER_GATEWAY = MAX_UNREAD_REQUESTS // 2
"""With more than these a gateway that wants one more, when all are taken, gives up one of its own."""

MAX_UNREAD_BYTES = 24 << 20
"""What has come of the requests of strangers, and as much of the others': six of the largest prompts each. A byte that
waits costs nearly two, and 64 of the largest would be half a gigabyte."""


class Arrival:
    """One request on its way. `give_up` is called, once, when its place becomes another's."""

    def __init__(self, places: _Places, gateway: str, give_up: Callable[[], None]) -> None:
        self._places = places
        self.gateway = gateway
        self.give_up = give_up
        self.received_bytes = 0
        self.has_place = True

    def grow(self, received_bytes: int) -> None:
        """More of it has come. Raises Busy when it has no place any more."""
        if self.has_place:
            self._places.grow(self, received_bytes)
        self.check()

    def check(self) -> None:
        """Raises Busy when it has no place any more."""
        if not self.has_place:
            raise Busy("too many requests are on their way to this worker")


class _Places:
    """Those of one kind of gateways, in the order in which they came."""

    def __init__(self) -> None:
        self._arrivals: dict[Arrival, None] = {}
        self._held: Counter[str] = Counter()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    def take(self, arrival: Arrival) -> None:
        if len(self._arrivals) >= MAX_UNREAD_REQUESTS:
            own_only = self._held[arrival.gateway] >= MAX_UNREAD_PER_GATEWAY
            self._give_up(lambda other: not own_only or other.gateway == arrival.gateway)
        self._arrivals[arrival] = None
        self._held[arrival.gateway] += 1

    def grow(self, arrival: Arrival, received_bytes: int) -> None:
        arrival.received_bytes += received_bytes
        self._bytes += received_bytes
        while self._bytes > MAX_UNREAD_BYTES:
            # One at least holds more than an even part. Those with less have not filled anything.
            self._give_up(lambda other: other.received_bytes > MAX_UNREAD_BYTES // MAX_UNREAD_REQUESTS)

    def leave(self, arrival: Arrival) -> None:
        """Idempotent."""
        if arrival.has_place:
            arrival.has_place = False
            del self._arrivals[arrival]
            self._bytes -= arrival.received_bytes
            self._held[arrival.gateway] -= 1
            if not self._held[arrival.gateway]:
                del self._held[arrival.gateway]

    def _give_up(self, may_go: Callable[[Arrival], bool]) -> None:
        """The oldest that may."""
        oldest = next(filter(may_go, self._arrivals))
        self.leave(oldest)
        oldest.give_up()


class Arrivals:
    """All requests that are on their way. `is_known` says whether a gateway has been served here."""

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self._known = _Places()
        self._strangers = _Places()

    def __len__(self) -> int:
        return len(self._known) + len(self._strangers)

    @contextlib.contextmanager
    def place(self, gateway: str, give_up: Callable[[], None]) -> Iterator[Arrival]:
        """Hold a place while a request arrives. Others that came before may have to give up theirs."""
        places = self._known if self._is_known(gateway) else self._strangers
        arrival = Arrival(places, gateway, give_up)
        places.take(arrival)
        try:
            yield arrival
        finally:
            places.leave(arrival)
