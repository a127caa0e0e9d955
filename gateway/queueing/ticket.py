"""A request that needs a worker, with what it asks for and how long it may wait. Data only."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from gateway.interface import Caller
from gateway.routing.route_query import RouteQuery


@dataclass(eq=False)
class Ticket:
    """A request that needs a worker before `deadline_s` (monotonic). `exclude` are the peer ids of those that failed
    it. `is_urgent`: it goes on after a failure. One that is not `is_patient` does not want to wait: it is told what it
    finds, and not that a deadline has passed. `size` is what it takes of the memory while it waits, in bytes."""

    query: RouteQuery
    caller: Caller
    deadline_s: float
    exclude: Set[str] = frozenset()
    is_urgent: bool = False
    is_patient: bool = True
    size: int = 0
