"""One inbound embed stream: read the request, hold a place, send the vectors, stop when the client goes.

Vectors that wait while the stream is busy travel in one write. Knows nothing of the directory, nor of which models
there are: it asks for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

import msgspec

from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import Busy, Draining, ModelNotFound, P2PNetError, PeerLost, ProtocolViolation, WorkerFailed
from p2pnet.messages import Embedding, EmbedEvent, EmbedRequest, Failed, Finished
from p2pnet.network import Stream
from p2pnet.pump import Pump
from p2pnet.wire.codec import MAX_EMBED_EVENT_FRAME_BYTES, embed_request_decoder, encode_frame
from p2pnet.wire.exchange import EMBED_TRANSITIONS, Exchange
from p2pnet.worker.backend import EmbedBackend, EmbedBackendEvent
from p2pnet.worker.handler import MAX_FAILURE_CHARS, MAX_UNREAD_REQUESTS
from p2pnet.worker.load import LoadMeter, Place

logger = logging.getLogger(__name__)

READ_AHEAD_VECTORS = 64
"""How far a backend may run ahead of a slow client before it has to wait: 4 MiB of the longest vectors."""

TASK = "embed"


class EmbedHandler:
    """Serves `/p2pnet/embed/1`. `find` says which backend embeds with a model at this moment.

    A request takes one place of its model, however many inputs it has: the backend shares its time fairly.
    """

    def __init__(
        self,
        find: Callable[[str], EmbedBackend | None],
        meter: LoadMeter,
        timeouts: ExchangeTimeouts | None = None,
        refusal: Callable[[], P2PNetError | None] = lambda: None,
    ) -> None:
        self._find = find
        self._meter = meter
        self._timeouts = timeouts or ExchangeTimeouts()
        self._refusal = refusal
        self._is_draining = False
        self.unread = 0
        """Streams whose request has not arrived yet."""

    async def __call__(self, stream: Stream) -> None:
        """Serve one stream to its end. Errors go to the client as a Failed frame, never as a traceback."""
        exchange = Exchange(EMBED_TRANSITIONS)
        try:
            request = await self._next_request(stream)
            backend = self._backend_for(request)
            with self._meter.place(request.model, TASK, has_own_speed=True) as place:
                await self._serve(stream, backend, request, exchange, place)
        except PeerLost:
            logger.debug("%s went away", stream.peer_id)
        except P2PNetError as error:
            await self._fail(stream, exchange, error)
        except Exception:  # the edge: whatever a backend's bug may be, the client gets an honest end
            logger.exception("a request failed")
            await self._fail(stream, exchange, WorkerFailed("the worker failed"))

    async def drain(self, limit_s: float) -> None:
        """Refuse new requests and wait for running ones, at most `limit_s` seconds."""
        self._is_draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._meter.wait_idle()

    def _backend_for(self, request: EmbedRequest) -> EmbedBackend:
        """Raises why the request is not taken."""
        if self._is_draining:
            raise Draining("this worker is stopping")
        if (error := self._refusal()) is not None:
            raise error
        backend = self._find(request.model)
        if backend is None:
            raise ModelNotFound(f"this worker does not embed with {request.model}")
        return backend

    async def _next_request(self, stream: Stream) -> EmbedRequest:
        if self.unread >= MAX_UNREAD_REQUESTS:
            raise Busy("too many requests are on their way to this worker")
        self.unread += 1
        try:
            return await self._read_request(stream)
        finally:
            self.unread -= 1

    async def _read_request(self, stream: Stream) -> EmbedRequest:
        decoder = embed_request_decoder()
        requests: list[EmbedRequest] = []
        try:
            async with asyncio.timeout(self._timeouts.request_s):
                while not requests:
                    data = await stream.read()
                    if not data:
                        raise PeerLost("no whole request came")
                    requests = decoder.feed(data)
        except TimeoutError as error:
            raise ProtocolViolation(f"no whole request within {self._timeouts.request_s:.0f} s") from error
        if len(requests) > 1 or not decoder.is_empty:
            raise ProtocolViolation("bytes after the request")
        return requests[0]

    async def _serve(
        self, stream: Stream, backend: EmbedBackend, request: EmbedRequest, exchange: Exchange, place: Place
    ) -> None:
        """Answer, until done or until the client goes: then what is not computed yet is dropped."""
        answer = asyncio.create_task(self._answer(stream, backend, request, exchange, place))
        client_end = asyncio.create_task(_wait_for_end(stream))
        try:
            await asyncio.wait({answer, client_end}, return_when=asyncio.FIRST_COMPLETED)
            task = answer if answer.done() else client_end
            task.result()
        finally:
            answer.cancel()
            client_end.cancel()
            await asyncio.wait({answer, client_end})

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

    async def _fail(self, stream: Stream, exchange: Exchange, error: P2PNetError) -> None:
        if not exchange.is_done:
            with contextlib.suppress(PeerLost):
                await self._send(stream, exchange, [Failed(error.code, error.message[:MAX_FAILURE_CHARS])])

    async def _send(self, stream: Stream, exchange: Exchange, events: Iterable[EmbedEvent]) -> None:
        frames = []
        for event in events:
            exchange.advance(event)
            frames.append(encode_frame(event, MAX_EMBED_EVENT_FRAME_BYTES))
        try:
            async with asyncio.timeout(self._timeouts.stall_s):
                await stream.write(b"".join(frames))
        except TimeoutError as error:
            raise PeerLost(f"the client read nothing for {self._timeouts.stall_s:.0f} s") from error


async def _wait_for_end(stream: Stream) -> None:
    """Return when the client has closed the stream. It has nothing more to say before that."""
    if await stream.read():
        raise ProtocolViolation("bytes after the request")
