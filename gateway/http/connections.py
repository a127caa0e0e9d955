"""Counts HTTP connections, all together and by caller, and makes room by cutting those that ask for nothing.

A connection asks for nothing while no whole request has come: before its first, after each answer, and while a head or
a body is still on its way. Those with an answer under way are never cut.
"""

from __future__ import annotations

import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

from gateway.http.proxies import Proxies
from gateway.shares import Shares

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 4096
"""Twice as many as requests may wait. Each takes some 15 kB while nothing is asked on it."""

FILES_RESERVED = 128
"""Open files that are for something else: the history, p2pd, libraries that are loaded late."""

FILES_PER_REQUEST = 2
"""A request takes its connection's, and another one for its stream to a worker."""

MAX_FILES = 1 << 16
"""More open files are not asked for: nobody needs them, and some libraries walk through all that there may be."""


SAID_EVERY_S = 60.0
"""That there are too many is logged no oftener."""


class Connection(Protocol):
    def cut(self) -> None:
        """End it at once."""
        ...


class Connections:
    """All connections of one server. Those of a trusted proxy carry everybody's requests, so they count in all only."""

    def __init__(
        self,
        bound: int = MAX_CONNECTIONS,
        proxies: Proxies | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self._proxies = proxies or Proxies()
        self._shares = Shares(bound)
        self._callers: dict[Connection, str] = {}
        self._idle: dict[str, dict[Connection, None]] = {}
        """Those that ask for nothing, by caller, each since when it does first."""
        self._said_s = float("-inf")

    def __len__(self) -> int:
        return len(self._callers)

    def open(self, connection: Connection, address: str) -> bool:
        """It is new, and asks for nothing yet. False: there is no room for it."""
        caller = "" if self._proxies.trusts(address) else self._proxies.caller_of(address, ())
        while not self._has_room(caller):
            self._note_full()
            if not self._cut_one(caller):
                return False
        self._shares.take(caller)
        self._callers[connection] = caller
        self.note_idle(connection)
        return True

    def note_asking(self, connection: Connection) -> None:
        """A whole request has come."""
        caller = self._callers.get(connection)
        idle = self._idle.get(caller, {}) if caller is not None else {}
        if connection in idle and caller is not None:
            del idle[connection]
            if not idle:
                del self._idle[caller]

    def note_idle(self, connection: Connection) -> None:
        """Its answer is complete."""
        caller = self._callers.get(connection)
        if caller is not None:
            self._idle.setdefault(caller, {})[connection] = None

    def closed(self, connection: Connection) -> None:
        self.note_asking(connection)
        caller = self._callers.pop(connection, None)
        if caller is not None:
            self._shares.give_back(caller)

    def _has_room(self, caller: str) -> bool:
        return self._shares.has_room(caller) if caller else self._shares.taken < self._shares.bound

    def _cut_one(self, newcomer: str) -> bool:
        """The longest idle one of whoever has most. For a newcomer that has as many, only its own are cut."""
        if not self._idle:
            return False
        greediest = max(self._idle, key=self._held)
        own = self._held(newcomer)
        if own and greediest != newcomer and self._held(greediest) <= own:
            return False
        oldest = next(iter(self._idle[greediest]))
        self.closed(oldest)
        oldest.cut()
        return True

    def _held(self, caller: str) -> int:
        """Of a trusted proxy nobody can say whose they are: they are cut last."""
        return self._shares.of(caller) if caller else 0

    def _note_full(self) -> None:
        if self._now_s() - self._said_s >= SAID_EVERY_S:
            self._said_s = self._now_s()
            logger.warning(
                "too many connections, in all or of one caller (there are %d, and %d may be): idle ones are closed",
                self._shares.taken,
                self._shares.bound,
            )


def connections_bound() -> int:
    """How many connections this process can have. Raises its limit of open files as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    files = MAX_FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, min(MAX_CONNECTIONS, (files - FILES_RESERVED) // FILES_PER_REQUEST))
