"""Starts attempts and ends them, with all that an end means for others.

Knows nothing of what comes between the two.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Generic

from gateway.audits.free_looks import Part
from gateway.audits.given import Given
from gateway.dispatch.attempt import STAYS, Attempt, Monotonic, Terms
from gateway.dispatch.doubt import Doubt
from gateway.dispatch.hedging import Hedging
from gateway.dispatch.progress import E, Q
from gateway.dispatch.refusals import Refusals
from gateway.dispatch.request_trace import RequestTrace
from gateway.dispatch.second_opinion import SecondOpinion
from gateway.dispatch.watch import Watch
from gateway.observability.reports import CANCELLED
from gateway.queueing.admission import Admission
from gateway.routing.choose import WorkerChoice
from gateway.routing.route_query import RouteQuery
from p2pnet.errors import (
    Busy,
    Draining,
    EndDoubted,
    Flagged,
    NotAllowed,
    P2PNetError,
    PeerSilent,
    RequestError,
    WorkerFailed,
)

logger = logging.getLogger(__name__)

OUTRUN = "outrun"
"""The reason of a worker's trouble that is late with its first tokens again and again."""

Ask = Callable[[Q, Attempt], AsyncGenerator[E, None]]
"""Asks the worker of an attempt. The events are those of `p2pnet.client`."""


@dataclass(frozen=True)
class Step(Generic[Q, E]):
    """What is asked of a worker next, and how."""

    request: Q
    query: RouteQuery
    ask: Ask[Q, E]
    is_by_text: bool = False


@dataclass(frozen=True)
class Account:
    """Where the ends of one answer's attempts are noted. `index` says which of several answers it is, `parts` who has
    given what of it."""

    refusals: Refusals
    opinion: SecondOpinion
    doubt: Doubt
    trace: RequestTrace
    index: int | None = None
    parts: list[Part] = field(default_factory=list)


class Running(Generic[E]):
    """An attempt and its stream of events."""

    def __init__(self, attempt: Attempt, stream: AsyncGenerator[E, None], account: Account) -> None:
        self.attempt = attempt
        self.stream = stream
        self.account = account
        self.is_over = False
        self.has_won = False
        """Whether the client is given what it brings."""


class Attempts:
    """All attempts of one gateway."""

    def __init__(
        self,
        watch: Watch,
        admission: Admission,
        hedging: Hedging,
        now_s: Monotonic,
        look_at: Callable[[Given], None] = lambda given: None,
    ) -> None:
        """`look_at` is handed what an attempt has gathered, once it is over."""
        self._watch = watch
        self._usual = watch.usual
        self._admission = admission
        self._hedging = hedging
        self._now_s = now_s
        self._look_at = look_at

    def start(
        self,
        step: Step[Q, E],
        choice: WorkerChoice,
        account: Account,
        is_hedge: bool = False,
        terms: Terms = STAYS,
    ) -> Running[E]:
        """Ask a worker whose slot has been reserved. Raises ModelNotFound when it does not run the model any more."""
        attempt = Attempt(choice, step.query.key, self._now_s(), self._now_s, is_hedge, terms)
        attempt.before = tuple(account.parts)
        self._watch.add(attempt)
        return Running(attempt, step.ask(step.request, attempt), account)

    def note_first_token(self, attempt: Attempt) -> None:
        """It has come, or is not waited for any longer: then it would have taken at least as long. But one that has
        never given an answer might take any time, and says nothing of what is late."""
        seconds = attempt.first_token_s
        if seconds is not None:
            self._hedging.note_first_token(attempt.key, seconds)
        elif self._usual.knows(attempt.key, attempt.worker.peer_id):
            self._hedging.note_first_token(attempt.key, self._now_s() - attempt.began_s)

    async def end_beaten(self, loser: Running[E], winner: Running[E]) -> None:
        """End an attempt of two, since the other one has the first part of the answer. That counts against a worker
        that was asked sooner, where the other is one that has given whole answers."""
        self.note_first_token(loser.attempt)
        await self.end(loser)
        attempt = loser.attempt
        if winner.attempt.is_hedge and self._usual.knows(attempt.key, winner.attempt.worker.peer_id):
            attempt.worker.health_of(attempt.key).note_doubt(self._now_s(), OUTRUN, attempt.began_s)

    async def end(self, running: Running[E], error: P2PNetError | None = None) -> None:
        """Close an attempt, give its slot back, and note how it went. Idempotent."""
        if running.is_over:
            return
        running.is_over = True
        attempt, account = running.attempt, running.account
        self._watch.remove(attempt)
        await running.stream.aclose()
        if running.has_won and attempt.ids:
            account.parts.append(Part(attempt.worker, attempt.card, attempt.ids, attempt.given))
        if attempt.given is not None:
            self._look_at(attempt.given)
        reason = attempt.finish_reason
        if reason is not None and not isinstance(error, EndDoubted):
            error = attempt.wrong_receipt
        outcome = error.code if error is not None else reason or CANCELLED
        account.trace.note_attempt(attempt.end(outcome), account.index)
        if reason is not None and error is None:
            self._note_whole(attempt, account)
        else:
            self._note_health(attempt, error)
        if error is not None:
            logger.info("%s: %s: %s (%s)", account.trace.request_id, attempt.worker.peer_id, error, error.code)
            if not isinstance(error, Busy):
                account.refusals.note(attempt.worker.peer_id, error)
                account.opinion.note_refusal(attempt, error, self._now_s())
        self._admission.wake(attempt.key[0])

    def _note_whole(self, attempt: Attempt, account: Account) -> None:
        """It has come to the end of an answer, which stood. One that says nothing speaks neither for its worker nor
        against it: it costs nothing. Nor does a count of tokens, but whoever counts is well."""
        worker, key, now_s = attempt.worker, attempt.key, self._now_s()
        confirmed = account.doubt.note_whole(attempt, now_s)
        if confirmed is not None:
            self._note_whole(confirmed, account)
        if not attempt.tokens:
            if key[1] == "tokenize":
                worker.health_of(key).note_begun(now_s, attempt.began_s)
            worker.health_of(key).note_release(attempt.began_s)
            return
        worker.note_served(key)
        worker.pace(key).durations_s.note(now_s - attempt.began_s)
        account.opinion.note_served(attempt, now_s)
        if attempt.first_token_s is not None and not attempt.card.is_cold:
            tokens = attempt.terms.prompt_tokens
            self._usual.note(key, worker.peer_id, tokens, attempt.first_token_s, attempt.token_s)

    def _note_health(self, attempt: Attempt, error: P2PNetError | None) -> None:
        worker, now_s = attempt.worker, self._now_s()
        health = worker.health_of(attempt.key)
        if isinstance(error, Busy):
            worker.note_full(attempt.key, now_s)
            health.note_release(attempt.began_s)
        elif error is None or isinstance(error, RequestError | Draining | NotAllowed | EndDoubted | Flagged):
            health.note_release(attempt.began_s)
        else:
            is_there = isinstance(error, PeerSilent) and worker.heard_s > attempt.last_event_s
            is_gone = not isinstance(error, WorkerFailed)
            health.note_failure(now_s, error.code, is_gone, is_there, attempt.began_s)
