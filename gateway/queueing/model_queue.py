"""Offers free slots to the requests that wait for one model, and measures how fast they move on.

How far it looks in one go is bounded, so that a long queue of requests that nobody can serve costs little. Knows no
worker: whether there is a slot for a request, its owner finds out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from gateway.queueing.fair_queue import FairQueue
from gateway.queueing.ticket import Ticket
from gateway.routing.route_query import Weights

MAX_FRONT = 64
MAX_FRONT_REFUSED = 8
"""How far into a queue a wake looks: past so many requests, of so many kinds, that no worker has room for. The next
tick looks further."""

MAX_SWEEP_REFUSED = 32
"""Kinds of requests without room that one tick meets on its way through a whole queue before it leaves the rest to the
next: requests for weights that nobody has cost their sender nothing, and a look at all workers each."""

RATE_ADMISSIONS = 64
RATE_WINDOW_S = 30.0
"""Estimates are made from the last admissions from the queue, none of them older than this."""


class ModelQueue:
    """The requests that wait for one model. `serve` gives a request a slot and takes it out of the queue, and returns
    whether there was one. `is_gone` says of a request that it waits no longer and is about to leave."""

    def __init__(self, serve: Callable[[Ticket], bool], is_gone: Callable[[Ticket], bool], now_s: float) -> None:
        self._serve = serve
        self._is_gone = is_gone
        self.tickets: FairQueue[Ticket] = FairQueue()
        self._rate = _AdmissionRate(now_s)
        self._sweep: Iterator[Ticket] | None = None
        """Where the last tick left off on its way through."""

    def take(self, ticket: Ticket, now_s: float) -> None:
        """It is served now."""
        self._rate.note(now_s)
        self.tickets.take(ticket)

    def time_for_s(self, count: int, now_s: float) -> float | None:
        """How long so many requests take, if all goes on as lately; None when that is not known."""
        rate = self._rate.per_s(now_s)
        return None if rate is None else count / rate

    def serve_front(self) -> None:
        """Give slots to those that are next."""
        self._serve_first(_NoRoom())

    def serve_whole(self, max_passed: int) -> None:
        """Give slots to the front first, as the order wants it; then go on through the rest."""
        no_room = _NoRoom()
        if self._serve_first(no_room):
            self._sweep = None
            return
        self._sweep = self._sweep or self.tickets.offers()
        if self._offer(self._sweep, no_room, MAX_SWEEP_REFUSED, max_passed):
            self._sweep = None

    def _serve_first(self, no_room: _NoRoom) -> bool:
        return self._offer(self.tickets.offers(), no_room, MAX_FRONT_REFUSED, MAX_FRONT)

    def _offer(self, offers: Iterator[Ticket], no_room: _NoRoom, max_refused: int, max_passed: int) -> bool:
        """Give slots to those offered, past so many that get none. Returns whether all were offered one."""
        refused = passed = 0
        for ticket in offers:
            if not self._is_gone(ticket) and not no_room.cover(ticket):
                if self._serve(ticket):
                    continue
                no_room.add(ticket)
                refused += 1
            passed += 1
            if refused >= max_refused or passed >= max_passed:
                return False
        return True


class _AdmissionRate:
    """How fast a queue has moved on lately."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._admitted_s: deque[float] = deque()

    def note(self, now_s: float) -> None:
        self._admitted_s.append(now_s)
        if len(self._admitted_s) > RATE_ADMISSIONS:
            self._since_s = self._admitted_s.popleft()

    def per_s(self, now_s: float) -> float | None:
        """None when nobody was admitted lately."""
        while self._admitted_s and self._admitted_s[0] < now_s - RATE_WINDOW_S:
            self._admitted_s.popleft()
        self._since_s = max(self._since_s, now_s - RATE_WINDOW_S)
        if not self._admitted_s or now_s <= self._since_s:
            return None
        return len(self._admitted_s) / (now_s - self._since_s)


class _NoRoom:
    """What no worker had room for, at one moment: whoever needs as much or more need not be tried."""

    def __init__(self) -> None:
        self._refused: dict[tuple[Weights, frozenset[str]], list[tuple[frozenset[str], int]]] = {}

    def add(self, ticket: Ticket) -> None:
        needs = frozenset(ticket.exclude), ticket.query.context
        self._refused.setdefault((ticket.query.weights, ticket.query.features), []).append(needs)

    def cover(self, ticket: Ticket) -> bool:
        tokens = ticket.query.context
        refused = self._refused.get((ticket.query.weights, ticket.query.features), ())
        return any(least <= tokens and (not exclude or exclude <= ticket.exclude) for exclude, least in refused)
