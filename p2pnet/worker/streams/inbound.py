"""Answers any inbound stream: reads one request, then has it answered or refuses it with a code.

Knows nothing of what is asked, nor of models and their slots.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from p2pnet.config import ExchangeTimeouts
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import FeatureMissing, P2PNetError, PeerLost, ProtocolViolation, RequestError, WorkerFailed
from p2pnet.messages import Failed, GenerateRequest
from p2pnet.network.interface import Stream
from p2pnet.score_messages import ScoreRequest
from p2pnet.status_messages import StatusRequest, WatchRequest
from p2pnet.wire.codec import LENGTH_BYTES, encode_frame
from p2pnet.wire.exchange import AnyEvent, Exchange
from p2pnet.wire.protocols import AnyAnswer, WireProtocol
from p2pnet.worker.observability.observer import Observer
from p2pnet.worker.streams.arrivals import Arrival, Arrivals
from p2pnet.worker.streams.guard import Guard

logger = logging.getLogger(__name__)

MAX_FAILURE_CHARS = 500
"""A message is a sentence or two; the frame that carries it must fit."""

R = TypeVar("R", GenerateRequest, EmbedRequest, ScoreRequest, StatusRequest, WatchRequest)


def as_it_is(failed: Failed) -> Failed:
    """Nothing is added to it."""
    return failed


@dataclass(eq=False)
class Asked(Generic[R]):
    """What has been asked on a stream. `body` is the request's frame as it came, without its length. `last_failure`
    makes of a failure what is sent: whoever answers may have something to say of what came before it."""

    stream: Stream
    request: R
    body: bytes
    exchange: Exchange
    last_failure: Callable[[Failed], Failed] = as_it_is


class InboundHandler(ABC, Generic[R]):
    """Serves the streams of one protocol."""

    protocol: WireProtocol[R, AnyAnswer]
    max_request_bytes: int | None = None
    """Of a request's frame; None is what the protocol allows."""

    def __init__(self, guard: Guard, arrivals: Arrivals, timeouts: ExchangeTimeouts | None, observer: Observer) -> None:
        self._guard = guard
        self._arrivals = arrivals
        self._timeouts = timeouts or ExchangeTimeouts()
        self._observer = observer

    async def __call__(self, stream: Stream) -> None:
        """Serve one stream to its end. Errors go to the client as a Failed frame, never as a traceback."""
        exchange = Exchange(self.protocol.transitions)
        asked: Asked[R] | None = None
        try:
            self._check(stream.peer_id)
            request, body = await self._next_request(stream)
            asked = Asked(stream, request, body, exchange)
            await self._answer_to(asked)
        except PeerLost as error:
            logger.debug("%s went away", stream.peer_id)
            self._observer.refused(self.protocol.name, error.code)
        except P2PNetError as error:
            await self._fail(stream, exchange, error, asked)
        except Exception:  # the edge: whatever a backend's bug may be, the client gets an honest end
            logger.exception("a request failed")
            await self._fail(stream, exchange, WorkerFailed("the worker failed"), asked)

    @abstractmethod
    def _check(self, peer_id: str) -> None:
        """Raises why this peer is not even listened to, if so."""

    @abstractmethod
    async def _answer_to(self, asked: Asked[R]) -> None:
        """Send events until the exchange is done, or raise why not."""

    @property
    def unread(self) -> int:
        """Requests that have not arrived yet."""
        return len(self._arrivals)

    async def _next_request(self, stream: Stream) -> tuple[R, bytes]:
        """With its body. Raises Busy when its place was needed for others that have come since."""
        limit_s = self._timeouts.request_s
        deadline_s = asyncio.get_running_loop().time() + limit_s
        timer = asyncio.timeout(min(self._timeouts.first_byte_s, limit_s))
        with self._arrivals.place(stream.peer_id, partial(_expire, timer)) as arrival:
            try:
                async with timer:
                    return await self._read_request(stream, arrival, partial(timer.reschedule, deadline_s))
            except TimeoutError as error:
                arrival.check()
                missing = "no whole request" if arrival.received_bytes else "nothing of a request"
                raise ProtocolViolation(f"{missing} came in time") from error

    async def _read_request(self, stream: Stream, arrival: Arrival, note_begun: Callable[[], None]) -> tuple[R, bytes]:
        decoder = self.protocol.request_decoder()
        requests: list[R] = []
        while not requests:
            data = await stream.read()
            if not data:
                raise PeerLost("no whole request came")
            if not arrival.received_bytes:
                note_begun()
            arrival.grow(len(data))
            requests = decoder.feed(data)
            self._check_size(arrival.received_bytes)
        if len(requests) > 1 or not decoder.is_empty:
            raise ProtocolViolation("bytes after the request")
        return requests[0], decoder.last_body

    def _check_size(self, received_bytes: int) -> None:
        """Raises FeatureMissing for a request that is larger than this worker's owner wants. That is no fault of the
        request: others may take it."""
        if self.max_request_bytes is not None and received_bytes > LENGTH_BYTES + self.max_request_bytes:
            raise FeatureMissing(f"this worker takes no request of more than {self.max_request_bytes} bytes")

    async def _fail(self, stream: Stream, exchange: Exchange, error: P2PNetError, asked: Asked[R] | None) -> None:
        self._observer.refused(self.protocol.name, error.code)
        if not exchange.is_done:
            param = error.param if isinstance(error, RequestError) else None
            failed = Failed(error.code, error.message[:MAX_FAILURE_CHARS], param)
            with contextlib.suppress(PeerLost):
                await self._send(stream, exchange, [failed if asked is None else asked.last_failure(failed)])

    async def _send(self, stream: Stream, exchange: Exchange, events: Iterable[AnyEvent]) -> None:
        frames = []
        for event in events:
            exchange.advance(event)
            frames.append(encode_frame(event, self.protocol.max_event_frame_bytes))
        try:
            async with asyncio.timeout(self._timeouts.stall_s):
                await stream.write(b"".join(frames))
        except TimeoutError as error:
            raise PeerLost(f"the client read nothing for {self._timeouts.stall_s:.0f} s") from error


def _expire(timer: asyncio.Timeout) -> None:
    """Now. One that is just ending whatever waits needs no second end."""
    if not timer.expired():
        timer.reschedule(asyncio.get_running_loop().time())
