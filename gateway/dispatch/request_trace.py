"""Notes what happens to one request while it happens, and makes its RequestReport. Knows nothing of why."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.progress import Asked, Told
from gateway.interface import Caller, Routed, Waiting
from gateway.observability.reports import CANCELLED, AttemptReport, RequestReport
from gateway.routing.route_query import task_of
from p2pnet.embed_messages import Embedding
from p2pnet.errors import P2PNetError
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.rerank_messages import Relevance

ServedEvent = Waiting | Routed | Told


class RequestTrace:
    """One request's, from its arrival to its end."""

    def __init__(
        self,
        request: Asked,
        caller: Caller,
        now_s: Callable[[], float],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self.request_id = request.request_id
        self.attempts: list[AttemptReport] = []
        self.queued_s = 0.0
        self.first_token_s: float | None = None
        self.gap_s: float | None = None
        self.is_routed = False
        """Whether the client was told who answers."""
        self.model = request.model
        self._task = task_of(request)
        self._caller = caller
        self._now_s = now_s
        self._began_s = now_s()
        self._arrived_unix_s = unix_s()
        self._last_token_s = self._began_s
        self._broken_since_s: float | None = None
        self._prompt_tokens = 0
        self._finished: Finished | None = None

    def elapsed_s(self) -> float:
        return self._now_s() - self._began_s

    def note_attempt(self, ended: AttemptReport, choice: int | None = None) -> None:
        began_s = ended.began_s - self._began_s
        self.attempts.append(dataclasses.replace(ended, began_s=began_s, choice=choice))

    def note_queued(self, seconds: float) -> None:
        """So long it has waited for a worker. What comes after the first token is part of the gap instead."""
        if self.first_token_s is None:
            self.queued_s += seconds

    def note_broken(self) -> None:
        """The answer has stopped in the middle: until its next part the client sees a gap."""
        if self.first_token_s is not None and self._broken_since_s is None:
            self._broken_since_s = self._last_token_s

    def note_event(self, event: ServedEvent) -> None:
        """What the client is given."""
        if isinstance(event, TextDelta | Embedding | Relevance):
            self._note_token()
        elif isinstance(event, Accepted):
            self._prompt_tokens = event.prompt_tokens
        elif isinstance(event, Finished):
            self._finished = event

    def routed(self, attempt: Attempt) -> Routed:
        return Routed(attempt.worker.peer_id, len(self.attempts) + 1, round(1000 * self.queued_s))

    def report(self, error: BaseException | None) -> RequestReport:
        finished = self._finished
        completion_tokens = sum(attempt.tokens for attempt in self.attempts)
        if finished is not None:
            completion_tokens = finished.usage.completion_tokens
        outcome = finished.reason if finished is not None else CANCELLED
        if isinstance(error, P2PNetError):
            outcome = error.code
        elif isinstance(error, Exception):
            outcome = "internal"
        return RequestReport(
            request_id=self.request_id,
            model=self.model,
            task=self._task,
            caller=self._caller.name,
            arrived_unix_s=self._arrived_unix_s,
            outcome=outcome,
            queued_s=self.queued_s,
            duration_s=self.elapsed_s(),
            first_token_s=self.first_token_s,
            gap_s=self.gap_s,
            prompt_tokens=self._prompt_tokens if finished is None else finished.usage.prompt_tokens,
            completion_tokens=completion_tokens,
            cached_tokens=0 if finished is None else finished.usage.cached_tokens,
            attempts=tuple(self.attempts),
        )

    def _note_token(self) -> None:
        now_s = self._now_s()
        if self.first_token_s is None:
            self.first_token_s = now_s - self._began_s
        if self._broken_since_s is not None:
            gap_s = now_s - self._broken_since_s
            self.gap_s = gap_s if self.gap_s is None else max(self.gap_s, gap_s)
            self._broken_since_s = None
        self._last_token_s = now_s
