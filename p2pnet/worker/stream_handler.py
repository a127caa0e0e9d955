"""What all inbound streams of a worker have in common: one request is read, then refused or served to its end.

Knows nothing of what is asked, nor of the directory or of which models there are: it asks for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar

from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import Busy, Draining, ModelNotFound, P2PNetError, PeerLost, ProtocolViolation, WorkerFailed
from p2pnet.messages import EmbedEvent, EmbedRequest, Event, Failed, GenerateRequest
from p2pnet.network import Stream
from p2pnet.wire.codec import FrameDecoder, encode_frame
from p2pnet.wire.exchange import Exchange
from p2pnet.worker.backend import Backend, EmbedBackend
from p2pnet.worker.load import LoadMeter, Place

logger = logging.getLogger(__name__)

MAX_UNREAD_REQUESTS = 64
"""Streams whose request is still arriving: each may hold 4 MiB before it can be told that the worker is busy."""

MAX_FAILURE_CHARS = 500
"""A message is a sentence or two; the frame that carries it must fit."""

R = TypeVar("R", bound=GenerateRequest | EmbedRequest)
B = TypeVar("B", bound=Backend | EmbedBackend)


class StreamHandler(ABC, Generic[R, B]):
    """Serves the streams of one protocol. `find` says which backend serves a model at this moment, `refusal` why
    nothing is served now, if so."""

    max_event_frame_bytes: ClassVar[int]

    def __init__(
        self,
        find: Callable[[str], B | None],
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
        exchange = self._exchange()
        try:
            request = await self._next_request(stream)
            backend = self._backend_for(request)
            with self._place(request, backend) as place:
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

    @abstractmethod
    def _exchange(self) -> Exchange:
        """At its start."""

    @abstractmethod
    def _decoder(self) -> FrameDecoder[R]: ...

    @abstractmethod
    def _place(self, request: R, backend: B) -> contextlib.AbstractContextManager[Place]:
        """Of those of the request's model. Raises Busy when there is none."""

    @abstractmethod
    def _unknown(self, model: str) -> str:
        """What is said of a model that nobody here serves."""

    @abstractmethod
    async def _answer(self, stream: Stream, backend: B, request: R, exchange: Exchange, place: Place) -> None:
        """Send the backend's events until the exchange is done."""

    def _backend_for(self, request: R) -> B:
        """Raises why the request is not taken."""
        if self._is_draining:
            raise Draining("this worker is stopping")
        if (error := self._refusal()) is not None:
            raise error
        backend = self._find(request.model)
        if backend is None:
            raise ModelNotFound(self._unknown(request.model))
        return backend

    async def _next_request(self, stream: Stream) -> R:
        if self.unread >= MAX_UNREAD_REQUESTS:
            raise Busy("too many requests are on their way to this worker")
        self.unread += 1
        try:
            return await self._read_request(stream)
        finally:
            self.unread -= 1

    async def _read_request(self, stream: Stream) -> R:
        decoder = self._decoder()
        requests: list[R] = []
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

    async def _serve(self, stream: Stream, backend: B, request: R, exchange: Exchange, place: Place) -> None:
        """Answer, until done or until the client goes: the stream's end cancels the backend within one step."""
        answer = asyncio.create_task(self._answer(stream, backend, request, exchange, place))
        client_end = asyncio.create_task(_wait_for_end(stream))
        tasks: set[asyncio.Future[Any]] = {answer, client_end}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            (answer if answer.done() else client_end).result()
        finally:
            answer.cancel()
            client_end.cancel()
            await asyncio.wait(tasks)

    async def _fail(self, stream: Stream, exchange: Exchange, error: P2PNetError) -> None:
        if not exchange.is_done:
            with contextlib.suppress(PeerLost):
                await self._send(stream, exchange, [Failed(error.code, error.message[:MAX_FAILURE_CHARS])])

    async def _send(self, stream: Stream, exchange: Exchange, events: Iterable[Event | EmbedEvent]) -> None:
        frames = []
        for event in events:
            exchange.advance(event)
            frames.append(encode_frame(event, self.max_event_frame_bytes))
        try:
            async with asyncio.timeout(self._timeouts.stall_s):
                await stream.write(b"".join(frames))
        except TimeoutError as error:
            raise PeerLost(f"the client read nothing for {self._timeouts.stall_s:.0f} s") from error


async def _wait_for_end(stream: Stream) -> None:
    """Return when the client has closed the stream. It has nothing more to say before that."""
    if await stream.read():
        raise ProtocolViolation("bytes after the request")
