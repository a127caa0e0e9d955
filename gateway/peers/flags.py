"""Keeps which workers this gateway has flagged: they are asked nothing until the flag expires.

A flag is one gateway's own judgement. It is told to nobody else, and nobody else's is believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

FLAGGED_S = 7 * 24 * 3600.0
"""How long a flag lasts. A machine that computed wrongly is repaired by then; a cheat could begin anew with another
identity at once, so more would keep no one out."""

MAX_FLAGS = 10_000
"""The oldest makes room. Each identity has to give dozens of answers first."""

UNLIKE = "unlike_its_model"
"""Its answers do not come from what it claims to run."""

CANNOT_SCORE = "cannot_score"
"""Again and again it could not look at answers that others of the same model could."""


@dataclass(frozen=True)
class Flag:
    """Why a worker is flagged: what auditors have said of its answers with this digest. `log_e` is the evidence in nats
    of the auditor that says least of those that it takes; `accusers` are their peer ids."""

    worker: str
    reason: str
    digest: str
    tokens: int
    log_e: float
    accusers: tuple[str, ...]
    is_by_trusted: bool
    flagged_unix_s: float

    @property
    def until_unix_s(self) -> float:
        return self.flagged_unix_s + FLAGGED_S


class Flags:
    """Those of one gateway. Whoever listens is called after each change."""

    def __init__(self, flags: Iterable[Flag] = (), unix_s: Callable[[], float] = time.time) -> None:
        self._unix_s = unix_s
        self._flags = {flag.worker: flag for flag in flags}
        self._listeners: list[Callable[[], None]] = []

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._flags

    def __len__(self) -> int:
        return len(self._flags)

    @property
    def all(self) -> tuple[Flag, ...]:
        """Oldest first."""
        return tuple(self._flags.values())

    def of(self, peer_id: str) -> Flag | None:
        return self._flags.get(peer_id)

    def listen(self, on_change: Callable[[], None]) -> None:
        self._listeners.append(on_change)

    def add(self, flag: Flag) -> None:
        self._flags[flag.worker] = flag
        if len(self._flags) > MAX_FLAGS:
            del self._flags[next(iter(self._flags))]
        self._tell()

    def lift(self, peer_id: str) -> None:
        if self._flags.pop(peer_id, None) is not None:
            self._tell()

    def expire(self) -> None:
        """Lift those whose time is over."""
        now_s = self._unix_s()
        over = [flag.worker for flag in self._flags.values() if flag.until_unix_s <= now_s]
        for peer_id in over:
            del self._flags[peer_id]
        if over:
            self._tell()  # once: after a week without this gateway there may be thousands, and each listener reads all

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()
