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
from typing import Any, Generic, TypeVar

from p2pnet.config import ExchangeTimeouts
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import FeatureMissing, P2PNetError, PeerLost, ProtocolViolation, RequestError, WorkerFailed
from p2pnet.messages import Failed, GenerateRequest
from p2pnet.network.interface import Stream
from p2pnet.rerank_messages import RerankRequest
from p2pnet.score_messages import ScoreRequest
from p2pnet.status_messages import StatusRequest, WatchRequest
from p2pnet.tokenize_messages import TokenizeRequest
from p2pnet.wire.codec import LENGTH_BYTES, MAX_ACKNOWLEDGED_FRAME_BYTES, encode_frame, type_of
from p2pnet.wire.exchange import AnyEvent, Exchange
from p2pnet.wire.protocols import AnyAnswer, WireProtocol
from p2pnet.worker.observability.observer import Observer
from p2pnet.worker.streams.arrivals import Arrival, Arrivals
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.inbox import Inbox

logger = logging.getLogger(__name__)

MAX_FAILURE_CHARS = 500
"""A message is a sentence or two; the frame that carries it must fit."""

ACKNOWLEDGED = "acknowledged"
"""The `type` of what a client may say between an answer and its next request."""

R = TypeVar(
    "R", GenerateRequest, EmbedRequest, ScoreRequest, TokenizeRequest, RerankRequest, StatusRequest, WatchRequest
)

Hear = Callable[[bytes], None]
"""Takes what a client says after the last event, as a frame."""


def as_it_is(failed: Failed) -> Failed:
    """Nothing is added to it."""
    return failed


@dataclass(eq=False)
class Asked(Generic[R]):
    """What has been asked on a stream. `body` is the request's frame as it came, without its length. `last_failure`
    makes of a failure what is sent: whoever answers may have something to say of what came before it. `is_kept`: the
    client has been told that another request may follow. Before that, `hear` is told what it signs, if anything."""

    inbox: Inbox
    request: R
    body: bytes
    exchange: Exchange
    last_failure: Callable[[Failed], Failed] = as_it_is
    is_kept: bool = False
    hear: Hear | None = None

    @property
    def stream(self) -> Stream:
        return self.inbox.stream


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
        """Serve one stream to its end, one request after another where both ends have said so."""
        inbox = Inbox(stream)
        while (asked := await self._serve_one(inbox)) is not None and asked.is_kept:
            if not await self._next_comes(asked):
                return

    async def _serve_one(self, inbox: Inbox) -> Asked[R] | None:
        """What has been asked and answered; None where it was not. Errors go to the client as a Failed frame, never as
        a traceback."""
        stream, exchange = inbox.stream, Exchange(self.protocol.transitions)
        asked: Asked[R] | None = None
        try:
            self._check(stream.peer_id)
            request, body = await self._next_request(inbox)
            asked = Asked(inbox, request, body, exchange)
            await self._answer_to(asked)
            return asked
        except PeerLost as error:
            logger.debug("%s went away", stream.peer_id)
            self._observer.refused(self.protocol.name, error.code)
        except P2PNetError as error:
            await self._fail(stream, exchange, error, asked)
        except Exception:  # the edge: whatever a backend's bug may be, the client gets an honest end
            logger.exception("a request failed")
            await self._fail(stream, exchange, WorkerFailed("the worker failed"), asked)
        return None

    async def _next_comes(self, asked: Asked[R]) -> bool:
        """Wait for the first of another request. False when none comes: the client has closed the stream, has let us
        wait for long, or others need its place."""
        inbox, idle, timer = asked.inbox, self._guard.idle_streams, asyncio.timeout(self._timeouts.idle_s)
        inbox.stream.is_idle = True
        try:
            async with timer:
                with idle.place(inbox.stream.peer_id, partial(_expire, timer)):
                    while not _is_request(asked):
                        if not await inbox.wait():
                            return False
        except TimeoutError:
            return False
        inbox.stream.is_idle = False
        return True

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

    async def _next_request(self, inbox: Inbox) -> tuple[R, bytes]:
        """With its body. Raises Busy when its place was needed for others that have come since."""
        limit_s = self._timeouts.request_s
        deadline_s = asyncio.get_running_loop().time() + limit_s
        timer = asyncio.timeout(min(self._timeouts.first_byte_s, limit_s))
        with self._arrivals.place(inbox.stream.peer_id, partial(_expire, timer)) as arrival:
            try:
                async with timer:
                    return await self._read_request(inbox, arrival, partial(timer.reschedule, deadline_s))
            except TimeoutError as error:
                arrival.check()
                missing = "no whole request" if arrival.received_bytes else "nothing of a request"
                raise ProtocolViolation(f"{missing} came in time") from error

    async def _read_request(self, inbox: Inbox, arrival: Arrival, note_begun: Callable[[], None]) -> tuple[R, bytes]:
        decoder = self.protocol.request_decoder()
        requests: list[R] = []
        while not requests:
            data = await inbox.read()
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


def _is_request(asked: Asked[Any]) -> bool:
    """Whether what waits is the beginning of a request. What the client has signed before that is heard."""
    inbox = asked.inbox
    if asked.hear is None or not inbox.waiting:
        return bool(inbox.waiting)
    frame = inbox.frame(MAX_ACKNOWLEDGED_FRAME_BYTES)
    if frame and type_of(frame[LENGTH_BYTES:]) == ACKNOWLEDGED:
        hear, asked.hear = asked.hear, None
        hear(frame)
        inbox.waiting = inbox.waiting[len(frame) :]
        return bool(inbox.waiting)
    return frame != b""


def _expire(timer: asyncio.Timeout) -> None:
    """Now. One that is just ending whatever waits needs no second end."""
    if not timer.expired():
        timer.reschedule(asyncio.get_running_loop().time())
