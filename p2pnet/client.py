"""Opens a stream to one worker and drives one exchange over it. Never retries: that is the caller's to decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import InvalidRequest, PeerLost, ProtocolViolation, from_wire
from p2pnet.messages import MAX_TOKENS_LIMIT, Accepted, Event, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.network import Network, Stream
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, FrameDecoder, encode_frame, event_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL, Exchange, State

T = TypeVar("T")

TIMEOUTS = ExchangeTimeouts()

MAX_CHARS_PER_TOKEN = 1024
"""The longest tokens in use are runs of a few hundred spaces or dashes."""


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

    A worker that sends more than `max_tokens` (by default what the request asks for) has broken the protocol.
    """
    budget = _Budget(max_tokens or request.max_tokens or MAX_TOKENS_LIMIT)
    frame = _request_frame(request)
    stream = await network.open_stream(peer_id, GENERATE_PROTOCOL, addresses)
    events = _events(stream, timeouts)
    try:
        await _within(timeouts.accept_s, stream.write(frame))
        async for event in events:
            if isinstance(event, Failed):
                raise from_wire(event.code, event.message)
            if isinstance(event, TextDelta):
                budget.spend(event)
            yield event
    finally:
        await events.aclose()
        stream.close()


class _Budget:
    """What a worker may still send: one that never ends must not fill the memory of whoever collects its answer."""

    def __init__(self, max_tokens: int) -> None:
        self._tokens = max_tokens
        self._chars = (max_tokens + 1) * MAX_CHARS_PER_TOKEN

    def spend(self, delta: TextDelta) -> None:
        self._tokens -= len(delta.token_ids)
        self._chars -= len(delta.text)
        if self._tokens < 0 or self._chars < 0:
            raise ProtocolViolation("the worker sent more than it was asked for")


def _request_frame(request: GenerateRequest) -> bytes:
    """What cannot be sent is the client's fault: no worker must be blamed for it."""
    try:
        return encode_frame(request, MAX_REQUEST_FRAME_BYTES)
    except (ProtocolViolation, UnicodeEncodeError) as error:
        raise InvalidRequest(f"The request cannot be sent to a worker: {error}.") from error


async def _events(stream: Stream, timeouts: ExchangeTimeouts) -> AsyncGenerator[Event, None]:
    """What the worker sends, checked against the exchange's table, up to its last event.

    What arrived together is checked together: nobody is told of a Finished that the worker goes on behind.
    """
    decoder, exchange = event_decoder(), Exchange()
    while not exchange.is_done:
        limit_s = timeouts.accept_s if exchange.state is State.WAITING else timeouts.silence_s
        events = await _within(limit_s, _next_events(stream, decoder, exchange))
        for event in events:
            exchange.advance(event)
        if exchange.is_done and not decoder.is_empty:
            raise ProtocolViolation("bytes after the last event")
        for event in events:
            yield event


async def _next_events(stream: Stream, decoder: FrameDecoder[Event], exchange: Exchange) -> list[Event]:
    """One event at least, in however small pieces it comes."""
    while True:
        data = await stream.read()
        if not data:
            exchange.end_of_stream()
        if events := decoder.feed(data):
            return events


async def _within(limit_s: float, work: Coroutine[Any, Any, T]) -> T:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise PeerLost(f"the worker stayed silent for {limit_s:.0f} s") from error
