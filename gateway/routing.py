"""Which workers may serve a request, and in which order to try them. Pure functions of data and `now`.

Power of two choices (Mitzenmacher 2001): of two workers picked at random the one with fewer requests in flight goes
first. What a record says of a worker's load is seconds old, and picking the least loaded from it stampedes; what this
gateway itself has in flight is exact. Knows nothing of streams or of the directory.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2pnet.messages import GenerateRequest
from p2pnet.records import CapabilityRecord


@dataclass(frozen=True)
class Candidate:
    """One worker as this gateway sees it. `cooling_until_s` is on the clock of `now_s`."""

    record: CapabilityRecord
    in_flight: int = 0
    cooling_until_s: float = 0.0

    @property
    def peer_id(self) -> str:
        return self.record.peer_id

    def context_length(self, model: str) -> int | None:
        return next((card.context_length for card in self.record.models if card.id == model), None)


def eligible(candidates: Iterable[Candidate], request: GenerateRequest, now_s: float) -> list[Candidate]:
    """Those that run what the request asks for. Those that failed lately are left out, unless nobody else is there."""
    able = [candidate for candidate in candidates if _runs(candidate.record, request)]
    healthy = [candidate for candidate in able if candidate.cooling_until_s <= now_s]
    return healthy or able


def rank(candidates: Sequence[Candidate], rng: random.Random, limit: int | None = None) -> list[Candidate]:
    """The first `limit` to try, in order: of two picked at random the less busy one, then the same among the rest."""
    remaining = list(candidates)
    order: list[Candidate] = []
    while remaining and len(order) != limit:
        pair = rng.sample(range(len(remaining)), min(2, len(remaining)))
        chosen = min(pair, key=lambda index: _pressure(remaining[index]))
        order.append(remaining[chosen])
        remaining[chosen] = remaining[-1]  # taking one out must not cost as much as there are workers
        remaining.pop()
    return order


def _pressure(candidate: Candidate) -> float:
    """Requests in flight for each place: a worker that takes more at a time is less busy with the same number."""
    return candidate.in_flight / max(1, candidate.record.slots)


def _runs(record: CapabilityRecord, request: GenerateRequest) -> bool:
    return any(
        card.id == request.model and card.task == "generate" and request.digest in (None, card.digest)
        for card in record.models
    )
