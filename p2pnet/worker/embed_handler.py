"""One inbound embed stream: what a StreamHandler does, with vectors for an answer.

Vectors that wait while the stream is busy travel in one write. Knows nothing of the directory, nor of which models
there are: it asks for each request.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import msgspec

from p2pnet.messages import Embedding, EmbedRequest, Finished
from p2pnet.network import Stream
from p2pnet.pump import Pump
from p2pnet.wire.codec import MAX_EMBED_EVENT_FRAME_BYTES, FrameDecoder, embed_request_decoder
from p2pnet.wire.exchange import EMBED_TRANSITIONS, Exchange
from p2pnet.worker.backend import EmbedBackend, EmbedBackendEvent
from p2pnet.worker.load import Place
from p2pnet.worker.stream_handler import StreamHandler

READ_AHEAD_VECTORS = 64
"""How far a backend may run ahead of a slow client before it has to wait: 4 MiB of the longest vectors."""

TASK = "embed"


class EmbedHandler(StreamHandler[EmbedRequest, EmbedBackend]):
    """Serves `/p2pnet/embed/1`.

    A request takes one place of its model, however many inputs it has: the backend shares its time fairly.
    """

    max_event_frame_bytes = MAX_EMBED_EVENT_FRAME_BYTES

    def _exchange(self) -> Exchange:
        return Exchange(EMBED_TRANSITIONS)

    def _decoder(self) -> FrameDecoder[EmbedRequest]:
        return embed_request_decoder()

    def _place(self, request: EmbedRequest, backend: EmbedBackend) -> AbstractContextManager[Place]:
        return self._meter.place(request.model, TASK, has_own_speed=True)

    def _unknown(self, model: str) -> str:
        return f"this worker does not embed with {model}"

    async def _answer(
        self, stream: Stream, backend: EmbedBackend, request: EmbedRequest, exchange: Exchange, place: Place
    ) -> None:
        async with Pump(backend.embed(request), READ_AHEAD_VECTORS) as pump:
            while not exchange.is_done:
                events = await pump.take()
                if any(isinstance(event, Embedding) for event in events):
                    place.begin()
                if any(isinstance(event, Finished) for event in events):
                    place.finish(tokens=0)
                await self._send(stream, exchange, map(self._with_load, events))

    def _with_load(self, event: EmbedBackendEvent) -> EmbedBackendEvent:
        return event if isinstance(event, Embedding) else msgspec.structs.replace(event, load=self._meter.load)
