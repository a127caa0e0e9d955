"""Which workers may serve a request, and in which order to try them. Pure functions of data and `now`.

Power of two choices (Mitzenmacher 2001): of two workers picked at random the one with fewer requests in flight goes
first. What a record says of a worker's load is seconds old, and picking the least loaded from it stampedes; what this
gateway itself has in flight is exact. Knows nothing of streams or of the directory.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2pnet.errors import ContextOverflow, P2PNetError
from p2pnet.features import check_features, features_needed
from p2pnet.messages import GenerateRequest
from p2pnet.records import CapabilityRecord, ModelCard


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
        cards = (card for card in self.record.models if card.id == model and card.task == "generate")
        return next((card.context_length for card in cards), None)


def eligible(candidates: Iterable[Candidate], request: GenerateRequest, now_s: float) -> list[Candidate]:
    """Those that run what the request asks for, and announce every feature that it needs. Those that failed lately are
    left out, unless nobody else is there."""
    needed = features_needed(request)
    able = [
        candidate
        for candidate in candidates
        if (card := _card(candidate.record, request)) is not None and _honours(card, request, needed)
    ]
    healthy = [candidate for candidate in able if candidate.cooling_until_s <= now_s]
    return healthy or able


def obstacle(candidates: Iterable[Candidate], request: GenerateRequest) -> P2PNetError | None:
    """Why nobody is eligible although the model runs: FeatureMissing, which names what the request asks for and nobody
    does, or ContextOverflow. None when nobody runs it."""
    cards = [card for candidate in candidates if (card := _card(candidate.record, request)) is not None]
    if not cards:
        return None
    needed = features_needed(request)
    nearest = min(cards, key=lambda card: len(needed - set(card.features)))
    try:
        check_features(request, {feature for card in cards for feature in card.features})
        check_features(request, nearest.features)
    except P2PNetError as error:
        return error
    longest = max(card.context_length for card in cards if needed.issubset(card.features))
    return ContextOverflow(
        f"The model {request.model} has a context of {longest} tokens, and {request.max_tokens} were requested.",
        "max_tokens",
    )


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
    """Requests in flight for each place of a model: a worker that takes more at a time is less busy with the same
    number. Each further model brings further places but no further machine."""
    return candidate.in_flight * max(1, len(candidate.record.models)) / max(1, candidate.record.slots)


def _card(record: CapabilityRecord, request: GenerateRequest) -> ModelCard | None:
    """What the worker announces of the model that is asked for."""
    for card in record.models:
        if card.id == request.model and card.task == "generate" and request.digest in (None, card.digest):
            return card
    return None


def _honours(card: ModelCard, request: GenerateRequest, needed: frozenset[str]) -> bool:
    """How long the prompt is only the worker knows: what can be ruled out is an answer longer than the context."""
    return needed.issubset(card.features) and (request.max_tokens or 0) <= card.context_length
