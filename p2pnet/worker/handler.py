"""One inbound generate stream: read the request, hold a place, send the backend's events, stop when the client goes.

Deltas that wait while the stream is busy travel in one frame. Knows nothing of the directory, nor of which models
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
from p2pnet.messages import Event, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.network import Stream
from p2pnet.pump import Pump
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, encode_frame, request_decoder
from p2pnet.wire.exchange import Exchange
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.load import LoadMeter, Place
from p2pnet.worker.merging import merged

logger = logging.getLogger(__name__)

READ_AHEAD_EVENTS = 256
"""How far a backend may run ahead of a slow client before it has to wait."""

MAX_UNREAD_REQUESTS = 64
"""Streams whose request is still arriving: each may hold 4 MiB before it can be told that the worker is busy."""

MAX_FRAMES_PER_S = 4000
"""Frames of tokens that all streams together may send. A frame costs this worker, two p2pd and the gateway some 150 us
of CPU whatever it holds, so tokens that come faster share one: with 64 streams five times as many tokens get through
(`python -m bench.overhead`). One stream waits 0.25 ms, eight wait 2 ms: less than a model takes for a token."""

MAX_PAUSE_S = 0.02
"""However many streams there are, nobody sees a token come this much later."""

MAX_FAILURE_CHARS = 500
"""A message is a sentence or two; the frame that carries it must fit."""


class GenerateHandler:
    """Serves `/p2pnet/generate/1`. `find` says which backend generates with a model at this moment.

    A request takes one place, of those of its model, however many answers it asks for: a place is a stream, its buffers
    and its reader, of which there is one. That a request of many answers waits for memory is for the engine to see to;
    if each answer took a place, one for more answers than there are places would never find them free together.
    """

    def __init__(
        self,
        find: Callable[[str], Backend | None],
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
        exchange = Exchange()
        try:
            request = await self._next_request(stream)
            if self._is_draining:
                raise Draining("this worker is stopping")
            if (error := self._refusal()) is not None:
                raise error
            backend = self._find(request.model)
            if backend is None:
                raise ModelNotFound(f"this worker does not run {request.model}")
            is_measured = backend.load.decode_tokens_per_s.sampled_ms > 0
            with self._meter.place(request.model, has_own_speed=is_measured) as place:
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

    async def _next_request(self, stream: Stream) -> GenerateRequest:
        if self.unread >= MAX_UNREAD_REQUESTS:
            raise Busy("too many requests are on their way to this worker")
        self.unread += 1
        try:
            return await self._read_request(stream)
        finally:
            self.unread -= 1

    async def _read_request(self, stream: Stream) -> GenerateRequest:
        decoder = request_decoder()
        requests: list[GenerateRequest] = []
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
        self, stream: Stream, backend: Backend, request: GenerateRequest, exchange: Exchange, place: Place
    ) -> None:
        """Answer, until done or until the client goes: the stream's end cancels the backend within one step."""
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
        self, stream: Stream, backend: Backend, request: GenerateRequest, exchange: Exchange, place: Place
    ) -> None:
        async with Pump(backend.generate(request), READ_AHEAD_EVENTS) as pump:
            while not exchange.is_done:
                events = await pump.take()
                place.note_tokens(tokens_in(events))
                for event in events:
                    if isinstance(event, Finished):
                        place.finish(event.usage.completion_tokens)
                await self._send(stream, exchange, map(self._with_load, merged(events)))
                if place.is_computing:
                    await asyncio.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """How long a stream that has just sent a frame lets further tokens wait, to send them together."""
        return min(MAX_PAUSE_S, self._meter.running / MAX_FRAMES_PER_S)

    def _with_load(self, event: BackendEvent) -> BackendEvent:
        return event if isinstance(event, TextDelta) else msgspec.structs.replace(event, load=self._meter.load)

    async def _fail(self, stream: Stream, exchange: Exchange, error: P2PNetError) -> None:
        if not exchange.is_done:
            with contextlib.suppress(PeerLost):
                await self._send(stream, exchange, [Failed(error.code, error.message[:MAX_FAILURE_CHARS])])

    async def _send(self, stream: Stream, exchange: Exchange, events: Iterable[Event]) -> None:
        frames = []
        for event in events:
            exchange.advance(event)
            frames.append(encode_frame(event, MAX_EVENT_FRAME_BYTES))
        try:
            async with asyncio.timeout(self._timeouts.stall_s):
                await stream.write(b"".join(frames))
        except TimeoutError as error:
            raise PeerLost(f"the client read nothing for {self._timeouts.stall_s:.0f} s") from error


def tokens_in(events: Iterable[BackendEvent]) -> int:
    """Tokens of the answer, not of the prompt's echo. A delta that names no ids counts as one token: what is passed on
    from a server elsewhere comes token by token, without them."""
    return sum(max(1, len(event.token_ids)) for event in events if isinstance(event, TextDelta) and not event.is_prompt)


async def _wait_for_end(stream: Stream) -> None:
    """Return when the client has closed the stream. It has nothing more to say before that."""
    if await stream.read():
        raise ProtocolViolation("bytes after the request")
