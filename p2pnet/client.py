"""Opens a stream to one worker and drives one exchange over it. Never retries: that is the caller's to decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import InvalidRequest, PeerLost, ProtocolViolation, from_wire
from p2pnet.messages import (
    MAX_TOKENS_LIMIT,
    Accepted,
    Embedding,
    EmbedEvent,
    EmbedRequest,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Status,
    StatusEvent,
    StatusRequest,
    TextDelta,
)
from p2pnet.network.interface import Network, Stream
from p2pnet.wire.answer_limits import AnswerLimits
from p2pnet.wire.codec import (
    MAX_REQUEST_FRAME_BYTES,
    MAX_STATUS_FRAME_BYTES,
    FrameDecoder,
    embed_event_decoder,
    encode_frame,
    event_decoder,
    status_event_decoder,
)
from p2pnet.wire.exchange import (
    EMBED_PROTOCOL,
    EMBED_TRANSITIONS,
    GENERATE_PROTOCOL,
    STATUS_PROTOCOL,
    STATUS_TRANSITIONS,
    Exchange,
    State,
)
from p2pnet.wire.vectors import VectorCheck

T = TypeVar("T")
E = TypeVar("E", Event, EmbedEvent, StatusEvent)

TIMEOUTS = ExchangeTimeouts()


async def generate(
    network: Network,
    peer_id: str,
    request: GenerateRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
    max_tokens: int | None = None,
) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
    """Have one worker serve `request`: Accepted, TextDelta*, Finished.

    Raises the error a Failed frame stands for (RequestError: nobody else will do better), PeerUnreachable, PeerLost
    or ProtocolViolation (another worker may be tried), InvalidRequest when the request fits no frame. Closing the
    generator cancels the work on the other side.

    A worker that sends more than `max_tokens` for a choice (by default what the request asks for), or what was not
    asked for, has broken the protocol.
    """
    frame = _request_frame(request)
    answer_limits = AnswerLimits(request, max_tokens or request.max_tokens or MAX_TOKENS_LIMIT)
    stream = await network.open_stream(peer_id, GENERATE_PROTOCOL, addresses)
    events = _events(stream, event_decoder(), Exchange(), timeouts)
    try:
        await _within(timeouts.accept_s, stream.write(frame))
        async for event in events:
            if isinstance(event, Failed):
                raise from_wire(event.code, event.message)
            if isinstance(event, TextDelta):
                answer_limits.check_delta(event)
            elif isinstance(event, Finished):
                answer_limits.check_finished(event)
            yield event
    finally:
        await events.aclose()
        stream.close()


async def embed(
    network: Network,
    peer_id: str,
    request: EmbedRequest,
    addresses: Sequence[str] = (),
    timeouts: ExchangeTimeouts = TIMEOUTS,
) -> AsyncGenerator[Accepted | Embedding | Finished, None]:
    """Have one worker embed the inputs of `request`: Accepted, Embedding once for each input in any order, Finished.

    All vectors have one length, that asked for where one was, and are finite. Raises, and is closed, as `generate`.
    """
    frame = _request_frame(request)
    vectors = VectorCheck(request)
    stream = await network.open_stream(peer_id, EMBED_PROTOCOL, addresses)
    events = _events(stream, embed_event_decoder(), Exchange(EMBED_TRANSITIONS), timeouts)
    try:
        await _within(timeouts.accept_s, stream.write(frame))
        async for event in events:
            if isinstance(event, Failed):
                raise from_wire(event.code, event.message)
            if isinstance(event, Embedding):
                vectors.check_embedding(event)
            elif isinstance(event, Finished):
                vectors.check_finished()
            yield event
    finally:
        await events.aclose()
        stream.close()


async def status(network: Network, peer_id: str, addresses: Sequence[str], timeout_s: float) -> Status:
    """How one worker is at this moment. The whole of it, dialling included, takes at most `timeout_s` seconds.

    Raises PeerUnreachable, PeerLost or ProtocolViolation, or what a Failed frame stands for: NotAllowed, or Busy when
    this peer has asked too often. Who answers so is alive.
    """
    try:
        async with asyncio.timeout(timeout_s):
            stream = await network.open_stream(peer_id, STATUS_PROTOCOL, addresses)
            try:
                await stream.write(encode_frame(StatusRequest(), MAX_STATUS_FRAME_BYTES))
                answer = await _only_event(stream)
            finally:
                stream.close()
    except TimeoutError as error:
        raise PeerLost(f"the worker did not say how it is within {timeout_s:g} s") from error
    if isinstance(answer, Failed):
        raise from_wire(answer.code, answer.message)
    return answer


def _request_frame(request: GenerateRequest | EmbedRequest) -> bytes:
    """What cannot be sent is the client's fault: no worker must be blamed for it."""
    try:
        return encode_frame(request, MAX_REQUEST_FRAME_BYTES)
    except (ProtocolViolation, UnicodeEncodeError) as error:
        raise InvalidRequest(f"The request cannot be sent to a worker: {error}.") from error


async def _events(
    stream: Stream, decoder: FrameDecoder[E], exchange: Exchange, timeouts: ExchangeTimeouts
) -> AsyncGenerator[E, None]:
    """What the worker sends, checked against the exchange's table, up to its last event.

    What arrived together is checked together: nobody is told of a Finished that the worker goes on behind.
    """
    while not exchange.is_done:
        limit_s = timeouts.accept_s if exchange.state is State.WAITING else timeouts.silence_s
        events = await _within(limit_s, _next_events(stream, decoder, exchange))
        for event in events:
            exchange.advance(event)
        if exchange.is_done and not decoder.is_empty:
            raise ProtocolViolation("bytes after the last event")
        for event in events:
            yield event


async def _next_events(stream: Stream, decoder: FrameDecoder[E], exchange: Exchange) -> list[E]:
    """One event at least, in however small pieces it comes."""
    while True:
        data = await stream.read()
        if not data:
            exchange.end_of_stream()
        if events := decoder.feed(data):
            return events


async def _only_event(stream: Stream) -> StatusEvent:
    decoder, exchange = status_event_decoder(), Exchange(STATUS_TRANSITIONS)
    events = await _next_events(stream, decoder, exchange)
    for event in events:
        exchange.advance(event)
    if not decoder.is_empty:
        raise ProtocolViolation("bytes after the status")
    return events[0]


async def _within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise PeerLost(f"the worker stayed silent for {limit_s:.0f} s") from error
