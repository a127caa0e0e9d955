"""Watches all answers under way, and cuts those of workers that are gone, or many times slower than others.

One timer for everything: no answer pays for it with each of its tokens. A worker that answers probes and sends no
tokens is given up much later where nobody else has room. A gateway that was held up itself blames nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.lateness import MIN_FIRST_TOKEN_S, MIN_TOKEN_S, STRETCH_S, first_token_limit_s, token_limit_s
from gateway.dispatch.silence import MIN_SUSPICION_S, give_up_s, suspicion_s
from gateway.dispatch.usual import Usual
from gateway.peers.worker import Worker
from p2pnet.errors import PeerSilent, TooSlow

logger = logging.getLogger(__name__)

TICK_S = 0.1
"""How often all answers are looked at."""

MAX_LAG_S = 0.3
"""A look that comes this much too late says that this gateway was busy, not that workers were silent."""

JUDGE_S = 0.25
"""How often it is asked of an answer whether it is too slow: who else has room for it takes a look at all workers."""

LATE_PART = 0.25
"""Who has taken this part of what would be too slow gets no new requests while others may be asked: it may be stuck,
and each one more would have to wait as long to find out."""

Check = Callable[[Worker], Awaitable[bool]]
"""Asks a worker whether it is there. False: it does not answer."""


@dataclass(frozen=True)
class _Late:
    """What an answer that is late has taken. `token_s` is its pace."""

    is_too_slow: bool
    reason: str
    token_s: float | None = None


class Watch:
    """Watches the attempts of one gateway. Run `run` as a task."""

    def __init__(
        self,
        check: Check,
        note_lost: Callable[[Worker], None],
        limit_s: float,
        now_s: Callable[[], float] = time.monotonic,
        usual: Usual | None = None,
    ) -> None:
        self.usual = usual or Usual()
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
            if now_s - attempt.judged_s >= JUDGE_S:
                attempt.judged_s = now_s
                self._judge(attempt, silent_s)
            if silent_s > shortest_s:
                self._look_at(attempt, silent_s)

    def _look_at(self, attempt: Attempt, silent_s: float) -> None:
        gaps_s = attempt.worker.pace(attempt.key).gaps_s
        if silent_s > give_up_s(gaps_s, attempt.has_token, self._limit_s):
            attempt.cut(f"the worker sent nothing for {silent_s:.1f} s", PeerSilent)
            return
        if silent_s > suspicion_s(gaps_s, attempt.has_token):
            self._suspect(attempt.worker, silent_s)

    def _judge(self, attempt: Attempt, silent_s: float) -> None:
        """Send nobody new to a worker that is late, and cut what is too slow where somebody else has room."""
        is_timed = attempt.has_token and attempt.key[1] == "generate"
        late = self._late_pace(attempt, silent_s) if is_timed else self._late_wait(attempt, silent_s)
        if late is None:
            return
        attempt.worker.health_of(attempt.key).note_late(self._now_s())
        if late.is_too_slow and attempt.terms.has_elsewhere():
            if late.token_s is not None:
                attempt.worker.pace(attempt.key).token_s.note(late.token_s, self._now_s())
            attempt.cut(late.reason, TooSlow)

    def _late_wait(self, attempt: Attempt, silent_s: float) -> _Late | None:
        """For the first token. Vectors come together, in no pace: for the next one as for the first."""
        terms, now_s = attempt.terms, self._now_s()
        waited_s = silent_s if attempt.has_token else now_s - max(attempt.began_s, self._lagged_s)
        if waited_s < LATE_PART * MIN_FIRST_TOKEN_S:
            return None
        limit_s = terms.first_token_limit_s
        usual_s = self.usual.first_token_s(attempt.key, terms.prompt_tokens, attempt.worker.peer_id)
        if usual_s is not None:
            usual_limit_s = first_token_limit_s(usual_s, terms.prompt_tokens, attempt.card.is_cold, terms.patience)
            limit_s = min(limit_s, usual_limit_s)
        if waited_s < LATE_PART * limit_s:
            return None
        return _Late(waited_s > limit_s, f"the worker said nothing of its answer for {waited_s:.1f} s")

    def _late_pace(self, attempt: Attempt, silent_s: float) -> _Late | None:
        """In mid-answer."""
        pace_s = attempt.stretch.pace_s(silent_s, self._lagged_s) or 0.0
        if pace_s <= MIN_TOKEN_S and silent_s < LATE_PART * STRETCH_S:
            return None
        usual_s = self.usual.token_s(attempt.key, attempt.worker.peer_id)
        if usual_s is None:
            return None
        limit_s = token_limit_s(usual_s, attempt.terms.patience)
        if pace_s <= limit_s and silent_s < LATE_PART * max(STRETCH_S, limit_s):
            return None
        return _Late(pace_s > limit_s, f"the worker took {pace_s:.1f} s for each token", pace_s)

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
