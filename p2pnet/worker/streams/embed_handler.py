"""Answers embed streams: a BackendStreamHandler that sends vectors.

Vectors that wait while the stream is busy travel in one write. Knows nothing of the directory, nor of which models
there are: it asks for each request.
"""

from __future__ import annotations

from collections.abc import Iterable

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.flow.pump import Pump
from p2pnet.messages import Finished
from p2pnet.wire.protocols import EMBED
from p2pnet.worker.backend import EmbedBackend, EmbedBackendEvent
from p2pnet.worker.observability.load import Slot
from p2pnet.worker.streams.backend_stream_handler import BackendStreamHandler
from p2pnet.worker.streams.inbound import Asked

READ_AHEAD_VECTORS = 64
"""How far a backend may run ahead of a slow client before it has to wait: 4 MiB of the longest vectors."""


class EmbedHandler(BackendStreamHandler[EmbedRequest, EmbedBackend]):
    """Serves `/p2pnet/embed/1`.

    A request takes one slot of its model, however many inputs it has: the backend shares its time fairly.
    """

    protocol = EMBED
    task = "embed"

    def _has_own_speed(self, backend: EmbedBackend) -> bool:
        return True  # nothing is decoded here

    def _unknown(self, model: str) -> str:
        return f"this worker does not embed with {model}"

    async def _answer(self, asked: Asked[EmbedRequest], backend: EmbedBackend, slot: Slot) -> None:
        async with Pump(backend.embed(asked.request), READ_AHEAD_VECTORS) as pump:
            while not asked.exchange.is_done:
                events = await pump.take()
                if any(isinstance(event, Embedding) for event in events):
                    slot.begin()
                for event in events:
                    if isinstance(event, Finished):
                        slot.finish(event)
                await self._send(asked.stream, asked.exchange, self._to_send(events, asked))

    def _to_send(self, events: Iterable[EmbedBackendEvent], asked: Asked[EmbedRequest]) -> Iterable[EmbedBackendEvent]:
        return (event if isinstance(event, Embedding) else self._told(event, asked) for event in events)
