"""Watches all answers under way for silence, and cuts those of workers that are gone.

One timer for everything: no answer pays for it with each of its tokens. A worker that answers and sends no tokens is
given up much later. A gateway that was held up itself blames nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.silence import MIN_SUSPICION_S, give_up_s, suspicion_s
from gateway.peers.worker import Worker

logger = logging.getLogger(__name__)

TICK_S = 0.1
"""How often all answers are looked at."""

MAX_LAG_S = 0.3
"""A look that comes this much too late says that this gateway was busy, not that workers were silent."""

Check = Callable[[Worker], Awaitable[bool]]
"""Asks a worker whether it is there. False: it does not answer."""


class Watch:
    """Watches the attempts of one gateway. Run `run` as a task."""

    def __init__(
        self,
        check: Check,
        note_lost: Callable[[Worker], None],
        limit_s: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._note_lost = note_lost
        self._limit_s = limit_s
        self._now_s = now_s
        self._attempts: set[Attempt] = set()
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._lagged_s = float("-inf")

    @property
    def watched(self) -> int:
        return len(self._attempts)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """The attempts under way, in no order."""
        return tuple(self._attempts)

    def add(self, attempt: Attempt) -> None:
        self._attempts.add(attempt)

    def remove(self, attempt: Attempt) -> None:
        self._attempts.discard(attempt)

    async def run(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """For ever."""
        try:
            while True:
                due_s = self._now_s() + TICK_S
                await sleep(TICK_S)
                if self._now_s() > due_s + MAX_LAG_S:
                    self._lagged_s = self._now_s()
                else:
                    self.look()
        finally:
            for task in self._checks.values():
                task.cancel()

    def look(self) -> None:
        """Once, at all of them."""
        now_s = self._now_s()
        shortest_s = min(MIN_SUSPICION_S, self._limit_s)
        for attempt in list(self._attempts):
            if attempt.waits_since_s is None:
                continue
            silent_s = now_s - max(attempt.waits_since_s, self._lagged_s)
            if silent_s > shortest_s:
                self._look_at(attempt, silent_s)

    def _look_at(self, attempt: Attempt, silent_s: float) -> None:
        gaps_s = attempt.worker.pace(attempt.key).gaps_s
        if silent_s > give_up_s(gaps_s, attempt.has_token, self._limit_s):
            attempt.cut(f"the worker sent nothing for {silent_s:.1f} s")
        elif silent_s > suspicion_s(gaps_s, attempt.has_token):
            self._suspect(attempt.worker, silent_s)

    def _suspect(self, worker: Worker, silent_s: float) -> None:
        """Have it asked, unless it has said something lately or is being asked."""
        if worker.peer_id in self._checks or self._now_s() - worker.heard_s < min(silent_s, 1.0):
            return
        task = asyncio.create_task(self._ask(worker))
        self._checks[worker.peer_id] = task
        task.add_done_callback(lambda _: self._checks.pop(worker.peer_id, None))

    async def _ask(self, worker: Worker) -> None:
        asked_s = self._now_s()
        is_there = await self._check(worker)
        if is_there or worker.heard_s >= asked_s or self._lagged_s >= asked_s:
            return
        logger.info("%s does not answer: its requests go on elsewhere", worker.peer_id)
        self._note_lost(worker)
        for attempt in list(self._attempts):
            if attempt.worker is worker:
                attempt.cut("the worker stopped answering")
