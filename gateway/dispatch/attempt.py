"""Runs one worker's part in a request: waits for its events, measures them, and can be cut short.

Owns the slot that was reserved at the worker, until `end`. Knows nothing of what the events say beyond their kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from gateway.audits.free_looks import Part
from gateway.audits.given import Given
from gateway.dispatch.lateness import Stretch
from gateway.dispatch.progress import E, Told
from gateway.observability.reports import AttemptReport
from gateway.peers.worker import Worker
from gateway.routing.choose import WorkerChoice
from p2pnet.embed_messages import Embedding
from p2pnet.errors import ModelNotFound, PeerError, PeerLost, ProtocolViolation, ReceiptRefused
from p2pnet.messages import Accepted, Finished, FinishReason, TextDelta
from p2pnet.records import ModelCard, ModelTask
from p2pnet.rerank_messages import Relevance

Monotonic = Callable[[], float]

PACE_TOKENS = 16
"""Over how many tokens a worker's pace is measured: of single ones, the slowest would stand for all."""


@dataclass(frozen=True)
class Terms:
    """When an attempt is too slow: see `lateness`. `has_elsewhere` says whether somebody else has room for it."""

    prompt_tokens: int = 1
    patience: float = 1.0
    first_token_limit_s: float = float("inf")
    has_elsewhere: Callable[[], bool] = lambda: False


STAYS = Terms()
"""Nobody else is there."""


class Attempt:
    """An attempt under way. Begins when it is made: the worker has been reserved then."""

    def __init__(
        self,
        choice: WorkerChoice,
        key: ModelTask,
        began_s: float,
        now_s: Monotonic,
        is_hedge: bool = False,
        terms: Terms = STAYS,
    ) -> None:
        """Raises ModelNotFound when it has stopped announcing the model between its choice and now: it is free then."""
        card = choice.worker.card(key)
        if card is None:
            choice.worker.release(key)
            choice.worker.health_of(key).note_release(began_s)
            raise ModelNotFound(f"The worker does not run {key[0]} any more.", "model")
        self.worker: Worker = choice.worker
        self.card: ModelCard = card
        """What it announced of the model when it was chosen."""
        self.key = key
        self.why = choice.why
        self.is_hedge = is_hedge
        self.terms = terms
        self.began_s = began_s
        self.first_token_s: float | None = None
        """After `began_s`."""
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        """Set once the answer is complete."""
        self.wrong_receipt: ReceiptRefused | None = None
        """What is wrong with the receipt for its answer, if anything."""
        self.ids = 0
        """Of its tokens those that it named."""
        self.before: Sequence[Part] = ()
        """What others had given of the answer when it began."""
        self.given: Given | None = None
        """Its part of the answer, where that will be looked at."""
        self.waits_since_s: float | None = None
        """Since when its next event has been waited for; None while it is not."""
        self.judged_s = began_s
        """When it was last asked whether it is too slow."""
        self.stretch = Stretch(began_s)
        """Of the answer, from its first token on."""
        self._answer_tokens = 0
        self._answer_s = 0.0
        self._paced_tokens = 0
        self._paced_s = 0.0
        self._now_s = now_s
        self.last_event_s = began_s
        """Since when nothing of it has come."""
        self._scope: asyncio.Timeout | None = None
        self._cut: PeerError | None = None
        self._is_held = True

    @property
    def has_token(self) -> bool:
        return self.first_token_s is not None

    @property
    def token_s(self) -> float | None:
        """What each token of the answer took after the first one, the client's part not counted."""
        return self._answer_s / self._answer_tokens if self._answer_tokens else None

    async def next(self, events: AsyncGenerator[E, None]) -> E | None:
        """The next event; None at the end. Raises what the worker's failing raises, or what it was cut with."""
        if self._cut is not None:
            raise self._cut
        self.waits_since_s = self._now_s()
        self._scope = asyncio.timeout(None)
        try:
            async with self._scope:
                event = await anext(events, None)
        except TimeoutError as error:
            if self._cut is None:
                raise
            raise self._cut from error
        finally:
            self._scope = None
            waited_since_s, self.waits_since_s = self.waits_since_s, None
        if event is not None:
            self._check(event)
            self._note(event, waited_since_s)
        return event

    def cut(self, reason: str, kind: type[PeerError] = PeerLost) -> None:
        """Have it fail, at once if it waits. It may be said again while it is still closing."""
        if self._cut is not None:
            return
        self._cut = kind(reason)
        if self._scope is not None:
            self._scope.reschedule(0.0)

    def note_wrong_receipt(self, error: ReceiptRefused) -> None:
        self.wrong_receipt = error

    def end(self, outcome: str) -> AttemptReport:
        """Give the slot back; what is to be told of it. Idempotent but for the outcome."""
        if self._is_held:
            self._is_held = False
            self.worker.release(self.key)
        return AttemptReport(
            worker=self.worker.peer_id,
            why=self.why,
            began_s=self.began_s,
            outcome=outcome,
            duration_s=self._now_s() - self.began_s,
            first_token_s=self.first_token_s,
            tokens=self.tokens,
            is_hedge=self.is_hedge,
        )

    def _check(self, event: Told) -> None:
        """Raises ProtocolViolation when it runs other weights than it has announced, or chooses tokens otherwise."""
        if not isinstance(event, Accepted):
            return
        if event.digest not in (None, self.card.digest):
            raise ProtocolViolation("the model's digest is not the one that was announced")
        if event.sampler not in ("", self.card.sampler):
            raise ProtocolViolation("the sampler is not the one that was announced")

    def _note(self, event: Told, waited_since_s: float) -> None:
        now_s = self._now_s()
        worker = self.worker
        worker.heard_s = now_s
        if isinstance(event, TextDelta) and event.is_prompt:
            return  # it took no computing, and says nothing of how fast the answer will be
        if isinstance(event, TextDelta | Embedding | Relevance):
            self._note_tokens(event, now_s, now_s - waited_since_s)
        elif isinstance(event, Accepted | Finished):
            if event.load.slots:
                worker.note_load(event.load, now_s)
            if isinstance(event, Accepted):
                worker.note_taken(self.key)
            else:
                self.finish_reason = event.reason
                if self.given is not None:
                    self.given.note_end(event)
                self._note_pace(now_s)
        self.last_event_s = now_s

    def _note_tokens(self, event: TextDelta | Embedding | Relevance, now_s: float, waited_s: float) -> None:
        tokens = max(1, len(event.token_ids)) if isinstance(event, TextDelta) else 1
        if isinstance(event, TextDelta):
            self.ids += len(event.token_ids)
            if self.given is not None:
                self.given.note(event)
        pace = self.worker.pace(self.key)
        if self.first_token_s is None:
            self.first_token_s = now_s - self.began_s
            pace.first_token_s.note(self.first_token_s, now_s)
            self.worker.health_of(self.key).note_begun(now_s, self.began_s)
            self.stretch = Stretch(now_s)
            self._answer_tokens = tokens - 1
        else:
            gap_s = now_s - self.last_event_s
            self.stretch.note(waited_s, tokens, now_s)
            if 2 * waited_s > gap_s:  # else it was our client that was slow
                pace.gaps_s.note(gap_s)
                self._answer_tokens += tokens
                self._answer_s += gap_s
                self._paced_tokens += tokens
                self._paced_s += gap_s
                if self._paced_tokens >= PACE_TOKENS:
                    self._note_pace(now_s)
        self.tokens += tokens

    def _note_pace(self, now_s: float) -> None:
        if self._paced_tokens:
            self.worker.pace(self.key).token_s.note(self._paced_s / self._paced_tokens, now_s)
            self._paced_tokens, self._paced_s = 0, 0.0
