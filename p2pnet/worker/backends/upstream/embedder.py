"""Passes texts on to a server that embeds them: the other half of an upstream backend.

It tokenizes nothing. What is too long is the server's to cut, or to refuse: llama.cpp always refuses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, Usage
from p2pnet.records import ModelCard
from p2pnet.worker.backend import BackendLoad, EmbedBackendEvent
from p2pnet.worker.backends.served import check_model, not_served
from p2pnet.worker.backends.upstream.dialect import estimated_prompt_tokens
from p2pnet.worker.backends.upstream.models import PolledModels
from p2pnet.worker.backends.upstream.offer import Offer
from p2pnet.worker.backends.upstream.session import UpstreamSession, taken
from p2pnet.worker.backends.upstream.vectors import MAX_VECTORS_BYTES, Batch, Vectors, batches, parse_vectors


class UpstreamEmbedder:
    """Embeds with the models of one upstream server. The backend that it belongs to closes what they share."""

    def __init__(self, session: UpstreamSession, models: PolledModels, accept_s: float) -> None:
        self._session = session
        self._models = models
        self._accept_s = accept_s

    @property
    def models(self) -> tuple[ModelCard, ...]:
        """The server's models that embed: none while it is away."""
        return tuple(offer.card for offer in self._models.offers.values() if offer.does == "embed")

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        """Yields Accepted, Embedding in the order of the inputs, Finished; see EmbedBackend.

        `Accepted.prompt_tokens` is an estimate, and so is `Finished.usage` where the server does not count.
        """
        offer = self._offer(request)
        estimate = sum(map(estimated_prompt_tokens, request.inputs))
        counted: int | None = 0
        for batch in batches(request, offer):
            async with taken(self._vectors(batch, request.dimensions), self._accept_s) as asking:
                if batch.start == 0:
                    yield Accepted(estimate, offer.card.digest)
                found = await asking
            for index, vector in enumerate(found.vectors, batch.start):
                yield Embedding(index, vector)
            counted = None if counted is None or found.prompt_tokens is None else counted + found.prompt_tokens
        yield Finished("stop", Usage(estimate if counted is None else counted, 0))

    async def close(self) -> None:
        """Nothing: see the class."""

    def _offer(self, request: EmbedRequest) -> Offer:
        offer = self._models.offers.get(request.model)
        if offer is None or offer.does != "embed":
            raise not_served(request)
        check_model(request, offer.card)
        return offer

    async def _vectors(self, batch: Batch, dimensions: int | None) -> Vectors:
        with self._models.doubted_on_failure():
            body = await self._session.ask(batch.call, MAX_VECTORS_BYTES)
        return parse_vectors(body, batch.inputs, dimensions)
