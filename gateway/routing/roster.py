"""The Roster: which workers can do what a request asks for, whether they are busy or not.

Knows nothing of how busy, how fast or how well they are: see `scoring`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from gateway.peers.worker import Worker
from gateway.routing.able import Able
from gateway.routing.route_query import RouteQuery, Weights
from p2pnet.errors import ContextOverflow, FeatureMissing, P2PNetError
from p2pnet.features import check_needed
from p2pnet.records import ModelCard, ModelTask
from p2pnet.wire.exchange import PROTOCOLS

MAX_VARIETIES = 64
"""Kinds of requests whose able workers are remembered: which digests and features are asked for is up to clients."""


_DOES = {"generate": "generate text", "embed": "embed", "tokenize": "tell its tokens here", "rerank": "rank documents"}


class Roster:
    """The workers in use at one moment, by what they run. Made anew when one comes, goes or announces other models."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._by_key: dict[ModelTask, list[Worker]] = {}
        for worker in workers:
            for card in worker.record.models:
                for key in card.asked_for:
                    self._by_key.setdefault(key, []).append(worker)
        self._lengths: dict[ModelTask, list[int]] = {}
        self._able: dict[tuple[ModelTask, Weights, frozenset[str], int], Able | None] = {}

    def of(self, key: ModelTask) -> Sequence[Worker]:
        """All that run the model."""
        return self._by_key.get(key, ())

    def able(self, query: RouteQuery) -> Able | None:
        """Those that can do what is asked, busy or not; None when there is nobody.

        Remembered, since it takes a look at all: for all lengths between those of two contexts at once."""
        variety = (
            query.key,
            query.weights,
            query.features,
            bisect_left(self._context_lengths(query.key), query.context),
        )
        if variety not in self._able:
            if len(self._able) >= MAX_VARIETIES:
                self._able.clear()
            workers = [worker for worker in self.of(query.key) if _is_able(worker, query)]
            self._able[variety] = Able(workers, query.key) if workers else None
        return self._able[variety]

    def _context_lengths(self, key: ModelTask) -> list[int]:
        if key not in self._by_key:
            return []
        if key not in self._lengths:
            cards = (worker.card(key) for worker in self._by_key[key])
            self._lengths[key] = sorted({card.context_length for card in cards if card is not None})
        return self._lengths[key]


def is_served(roster: Roster, query: RouteQuery) -> bool:
    """Whether any worker can do what is asked, busy or not."""
    return roster.able(query) is not None


def obstacle(workers: Iterable[Worker], query: RouteQuery) -> P2PNetError | None:
    """Why nobody is able although the model runs: FeatureMissing, which names what the request asks for and nobody
    does, or ContextOverflow. None when nobody runs it."""
    workers = list(workers)
    cards = [card for worker in workers if (card := _card(worker, query)) is not None]
    if not cards:
        return _other_task(workers, query)
    nearest = min(cards, key=lambda card: len(query.features - set(card.features)))
    try:
        check_needed(query.model, query.features, {feature for card in cards for feature in card.features})
        check_needed(query.model, query.features, nearest.features)
    except P2PNetError as error:
        return error
    longest = max(card.context_length for card in cards if query.features.issubset(card.features))
    if query.context <= longest:
        return None
    if query.least_prompt_tokens >= longest:
        return ContextOverflow.by_prompt(longest, query.least_prompt_tokens)
    return ContextOverflow(
        f"The model {query.model} has a context of {longest} tokens, and {query.context} were requested.",
        "max_tokens",
    )


def _other_task(workers: Iterable[Worker], query: RouteQuery) -> FeatureMissing | None:
    """Why a model that is there only for something else cannot serve this."""
    cards = (card for worker in workers for card in worker.record.models if card.id == query.model)
    if all(query.key in card.asked_for for card in cards):
        return None
    return FeatureMissing(f"The model {query.model} does not {_DOES[query.task]}.", "model")


def _card(worker: Worker, query: RouteQuery) -> ModelCard | None:
    """What the worker announces of the weights that are asked for."""
    card = worker.card(query.key)
    return card if card is not None and query.accepts(card) else None


def _is_able(worker: Worker, query: RouteQuery) -> bool:
    """How long the prompt is only the worker knows: what can be ruled out is an answer that is longer than the context,
    or a prompt that is so much longer that it cannot fit."""
    record, card = worker.record, _card(worker, query)
    return (
        card is not None
        and query.features.issubset(card.features)
        and query.context <= card.context_length
        and bool(record.addresses)
        and (not record.protocols or PROTOCOLS[query.task] in record.protocols)
    )
