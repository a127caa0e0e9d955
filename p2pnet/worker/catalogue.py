"""Tells what a worker's backends offer now: which models, who runs each, how busy they are.

Models come and go, so nothing is kept: backends are asked each time. Knows nothing of requests or of the network.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from p2pnet.messages import Measure
from p2pnet.records import IncompleteModel, ModelCard
from p2pnet.worker.backend import (
    Backend,
    BackendLoad,
    DriverBackend,
    EmbedBackend,
    RerankBackend,
    ScoreBackend,
    TokenizeBackend,
)

logger = logging.getLogger(__name__)


class Catalogue:
    """The backends of one worker. If two offer the same model for the same task, the first one runs it."""

    def __init__(self, backends: Sequence[Backend], embedders: Sequence[EmbedBackend | RerankBackend] = ()) -> None:
        self._backends = backends
        self._embedders = embedders
        self._all: tuple[Backend | EmbedBackend | RerankBackend, ...] = (*backends, *embedders)
        self._warned: frozenset[str] = frozenset()

    def cards(self) -> tuple[ModelCard, ...]:
        """What can be asked of this worker now, as it is announced: each model once per task."""
        offered = [card for backend in self._all for card in backend.models]
        self._warn_of(duplicates(offered))
        return tuple({card.key: card for card in reversed(offered)}.values())[::-1]

    def incomplete(self) -> tuple[IncompleteModel, ...]:
        """What could be asked of this worker, were its layers all somewhere."""
        drivers = (backend for backend in self._backends if isinstance(backend, DriverBackend))
        return tuple(model for driver in drivers for model in driver.incomplete)

    def find(self, model: str) -> Backend | None:
        """The backend that generates with this model now, if any."""
        for backend in self._backends:
            if any(card.id == model and card.task == "generate" for card in backend.models):
                return backend
        return None

    def find_scorer(self, model: str) -> ScoreBackend | None:
        """The backend that generates with this model now, if it can score others' answers."""
        backend = self.find(model)
        return backend if isinstance(backend, ScoreBackend) else None

    def find_tokenizer(self, model: str) -> TokenizeBackend | None:
        """The backend that generates with this model now, if it can tell tokens."""
        backend = self.find(model)
        return backend if isinstance(backend, TokenizeBackend) else None

    def find_embedder(self, model: str) -> EmbedBackend | None:
        """The backend that embeds with this model now, if any."""
        for embedder in self._embedders:
            is_there = any((model, "embed") in card.asked_for for card in embedder.models)
            if is_there and isinstance(embedder, EmbedBackend):
                return embedder
        return None

    def find_reranker(self, model: str) -> RerankBackend | None:
        """The backend that ranks with this model now, if any."""
        for reranker in self._embedders:
            is_there = any((model, "rerank") in card.asked_for for card in reranker.models)
            if is_there and isinstance(reranker, RerankBackend):
                return reranker
        return None

    @property
    def load(self) -> BackendLoad:
        """The load of all backends together. Memory is added up. Speeds are not, since models share a machine and are
        measured at different times: the one measured last stands. Of slots the fewest stand: all models of a worker
        have the same number."""
        loads = [backend.load for backend in self._all]
        return BackendLoad(
            slots=min((load.slots for load in loads if load.slots), default=0),
            kv_free_tokens=sum(load.kv_free_tokens for load in loads),
            kv_total_tokens=sum(load.kv_total_tokens for load in loads),
            decode_tokens_per_s=newest(load.decode_tokens_per_s for load in loads),
            prefill_tokens_per_s=newest(load.prefill_tokens_per_s for load in loads),
        )

    async def close(self) -> None:
        """Free the models of all backends. No request is running any more."""
        await asyncio.gather(*(backend.close() for backend in self._all))

    def _warn_of(self, twice: frozenset[str]) -> None:
        """Warn once of each model, for as long as it is offered twice."""
        for model in sorted(twice - self._warned):
            logger.warning("two backends offer the model %s: the first one serves it", model)
        self._warned = twice


def duplicates(cards: Iterable[ModelCard]) -> frozenset[str]:
    """The models that are among `cards` more than once for the same task."""
    times = Counter(card.key for card in cards)
    return frozenset(model for (model, _), count in times.items() if count > 1)


def newest(measures: Iterable[Measure]) -> Measure:
    """The measure that was taken last; an empty one when nothing has been measured."""
    return max(measures, key=lambda measure: measure.sampled_ms, default=Measure())
