"""Answers rerank streams: a BackendStreamHandler that sends scores of documents.

Knows nothing of the directory, nor of which models there are: it asks for each request.
"""

from __future__ import annotations

from p2pnet.flow.pump import Pump
from p2pnet.messages import Finished
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.wire.protocols import RERANK
from p2pnet.worker.backend import RerankBackend
from p2pnet.worker.observability.load import Slot
from p2pnet.worker.streams.backend_stream_handler import BackendStreamHandler
from p2pnet.worker.streams.inbound import Asked

READ_AHEAD_SCORES = 64
"""How far a backend may run ahead of a slow client before it has to wait: what two batches bring."""


class RerankHandler(BackendStreamHandler[RerankRequest, RerankBackend]):
    """Serves `/p2pnet/rerank/1`. A request takes one slot of its model, however many documents it has."""

    protocol = RERANK
    task = "rerank"

    def _has_own_speed(self, backend: RerankBackend) -> bool:
        return True  # nothing is decoded here

    def _unknown(self, model: str) -> str:
        return f"this worker does not rank with {model}"

    async def _answer(self, asked: Asked[RerankRequest], backend: RerankBackend, slot: Slot) -> None:
        async with Pump(backend.rerank(asked.request), READ_AHEAD_SCORES) as pump:
            while not asked.exchange.is_done:
                events = await pump.take()
                if any(isinstance(event, Relevance) for event in events):
                    slot.begin()
                for event in events:
                    if isinstance(event, Finished):
                        slot.finish(event)
                told = (event if isinstance(event, Relevance) else self._told(event, asked) for event in events)
                await self._send(asked.stream, asked.exchange, told)
