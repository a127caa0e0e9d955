"""Decides which other worker is asked when one says that a request cannot be served, and what that says of the first.

A worker that lies about it would otherwise end requests that others can serve. Asks nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.usual import Usual
from gateway.peers.subnets import subnets_of
from gateway.peers.worker import Worker
from p2pnet.errors import ContextOverflow, P2PNetError, RequestError
from p2pnet.records import ModelCard, ModelTask

WAIT_S = 5.0
"""How long a second worker is waited for, while all are busy, before the first one's word stands: whoever has made a
mistake wants to hear of it."""

QUIET_S = 60.0
"""Who has refused nothing for so long is asked first: workers that refuse whatever they are asked would otherwise
confirm one another, and nobody would find out. A request that is at fault is refused by all, and tells them not
apart."""

MAX_COMPARED = 64
"""Workers whose addresses are looked at."""

REFUSED = "refused"
"""The reason of a worker's trouble that has refused what others could serve."""


@dataclass(frozen=True)
class _Refusal:
    worker: Worker
    card: ModelCard
    asked_s: float
    error: RequestError

    def is_refuted_by(self, card: ModelCard) -> bool:
        """Whether who announces this card can do no more than who refused."""
        may_be_too_short = isinstance(self.error, ContextOverflow) and self.card.context_length < card.context_length
        return self.card.digest == card.digest and not may_be_too_short


class SecondOpinion:
    """One request's."""

    def __init__(self, usual: Usual) -> None:
        self._usual = usual
        self._refusals: list[_Refusal] = []
        self._doubted: list[Worker] = []
        self.until_s = float("inf")
        """When the first one's word stands, whoever was not asked."""

    @property
    def refusers(self) -> Collection[str]:
        return [worker.peer_id for worker in self._asked]

    @property
    def _asked(self) -> list[Worker]:
        return [*(refusal.worker for refusal in self._refusals), *self._doubted]

    def note_refusal(self, attempt: Attempt, error: P2PNetError, now_s: float) -> None:
        """A worker has said so, if that is what it said."""
        if error.is_hearsay and isinstance(error, RequestError):
            attempt.worker.refused_s = now_s
            self._refusals.append(_Refusal(attempt.worker, attempt.card, attempt.began_s, error))
            if not error.may_retry:
                self.until_s = min(self.until_s, now_s + WAIT_S)

    def note_doubted(self, worker: Worker, now_s: float) -> None:
        """A worker has ended the answer in a way that another one is asked about."""
        worker.refused_s = now_s
        self._doubted.append(worker)
        self.until_s = min(self.until_s, now_s + WAIT_S)

    def note_served(self, attempt: Attempt, now_s: float) -> None:
        """A worker has served it. Where it is one that has served before, that speaks against those who refused it and
        can do no less."""
        if not self._refusals or not self._usual.knows(attempt.key, attempt.worker.peer_id):
            return
        for refusal in self._refusals:
            if refusal.is_refuted_by(attempt.card):
                refusal.worker.health_of(attempt.key).note_doubt(now_s, REFUSED, refusal.asked_s)

    def passed_over(
        self, able: Sequence[Worker], key: ModelTask, exclude: Collection[str], now_s: float
    ) -> frozenset[str] | None:
        """Whom not to ask next, of those that are able: all but the best ones for a second opinion. None when there is
        nobody to ask. Where all others are busy, one of these has to be waited for."""
        passed = {*self.refusers, *exclude}
        others = [worker for worker in able if worker.peer_id not in passed and worker.health_of(key).may_take(now_s)]
        if not others:
            return None
        best = self._best([worker for worker in others if worker.has_room(key, now_s)], key, now_s)
        if not best:
            return frozenset(passed)
        return frozenset(worker.peer_id for worker in able) - {worker.peer_id for worker in best}

    def _best(self, others: Sequence[Worker], key: ModelTask, now_s: float) -> Sequence[Worker]:
        """Those that have served, have refused nothing lately, and are in another subnet than who refused; as far as
        there are any."""
        tried = [worker for worker in others if self._usual.knows(key, worker.peer_id)]
        tried = [worker for worker in tried if now_s - worker.refused_s > QUIET_S] or tried
        return self._elsewhere(tried) or tried or self._elsewhere(others) or others

    def _elsewhere(self, workers: Sequence[Worker]) -> Sequence[Worker]:
        near = frozenset[str]().union(*(worker.subnets for worker in self._asked))
        return [worker for worker in workers[:MAX_COMPARED] if near.isdisjoint(subnets_of(worker.record.addresses))]
