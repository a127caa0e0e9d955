"""Passes documents on to a server that ranks them: another part of an upstream backend.

It tokenizes nothing. What is too long is the server's to cut, or to refuse: llama.cpp always refuses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from p2pnet.messages import Accepted, Finished, TextPrompt, Usage
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.worker.backend import BackendLoad, RerankBackendEvent
from p2pnet.worker.backends.served import check_model, not_served
from p2pnet.worker.backends.upstream.dialect import estimated_prompt_tokens
from p2pnet.worker.backends.upstream.models import PolledModels
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.ranks import MAX_RANKS_BYTES, RankBatch, Ranks, parse_ranks, rank_batches
from p2pnet.worker.backends.upstream.session import UpstreamSession, taken


class UpstreamReranker:
    """Ranks with the models of one upstream server. The backend that it belongs to closes what they share."""

    def __init__(self, session: UpstreamSession, models: PolledModels, accept_s: float) -> None:
        self._session = session
        self._models = models
        self._accept_s = accept_s

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The server's models that rank: none while it is away."""
        return tuple(offer.card for offer in self._models.offers.values() if offer.does == "rank")

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def rerank(self, request: RerankRequest) -> AsyncGenerator[RerankBackendEvent, None]:
        """Yields Accepted, Relevance in the order of the documents, Finished; see RerankBackend.

        `Accepted.prompt_tokens` is an estimate, and so is `Finished.usage` where the server does not count.
        """
        offer = self._offer(request)
        pairs = (TextPrompt(request.query + document) for document in request.documents)
        estimate = sum(map(estimated_prompt_tokens, pairs))
        counted: int | None = 0
        for batch in rank_batches(request, offer):
            async with taken(self._ranks(batch), self._accept_s) as asking:
                if batch.start == 0:
                    yield Accepted(estimate, offer.card.digest)
                found = await asking
            for index, score in enumerate(found.scores, batch.start):
                yield Relevance(index, score)
            counted = None if counted is None or found.prompt_tokens is None else counted + found.prompt_tokens
        yield Finished("stop", Usage(estimate if counted is None else counted, 0))

    async def close(self) -> None:
        """Nothing: see the class."""

    def _offer(self, request: RerankRequest) -> Offer:
        offer = self._models.offers.get(request.model)
        if offer is None or offer.does != "rank":
            raise not_served(request)
        check_model(request, offer.card)
        return offer

    async def _ranks(self, batch: RankBatch) -> Ranks:
        with self._models.doubted_on_failure():
            body = await self._session.ask(batch.call, MAX_RANKS_BYTES)
        return parse_ranks(body, batch.documents)
