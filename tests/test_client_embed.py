"""The client against workers that send vectors they should not: none is believed that breaks the rules."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from p2pnet.client import embed
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.embed_messages import MAX_DIMENSIONS, Embedding, EmbedEvent, EmbedRequest
from p2pnet.errors import (
    Busy,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    PeerLost,
    PeerSilent,
    PeerUnreachable,
    ProtocolViolation,
)
from p2pnet.messages import Accepted, Failed, Finished, TextDelta, TextPrompt, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.wire.codec import MAX_EMBED_EVENT_FRAME_BYTES, embed_request_decoder, encode_frame
from p2pnet.wire.exchange import EMBED_PROTOCOL
from tests.stories import DIGEST, ManualClock, peer

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

ACCEPTED = Accepted(3, DIGEST)
FINISHED = Finished("stop", Usage(3, 0))
SHORT = ExchangeTimeouts(accept_s=0.03, silence_s=0.03)


def ask(inputs: int = 2, dimensions: int | None = None) -> EmbedRequest:
    return EmbedRequest("r1", "vectors", (TextPrompt("text"),) * inputs, dimensions)


def vector(index: int, *numbers: float) -> Embedding:
    numbers = numbers or (1.0, 2.0)
    return Embedding(index, struct.pack(f"<{len(numbers)}f", *numbers))


def framed(*events: EmbedEvent | TextDelta) -> bytes:
    return b"".join(encode_frame(event, 1 << 20) for event in events)


def says(*chunks: bytes, then: Callable[[], Awaitable[object]] | None = None) -> StreamHandler:
    """A worker that reads its request, writes these bytes, and goes away, or does something else `then`."""

    async def handle(stream: Stream) -> None:
        decoder = embed_request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        for chunk in chunks:
            await stream.write(chunk)
        if then is not None:
            await then()

    return handle


async def network_with(handler: StreamHandler) -> MemoryNetwork:
    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(EMBED_PROTOCOL, handler)
    return world.join(CLIENT)


async def run(
    handler: StreamHandler, request: EmbedRequest | None = None, timeouts: ExchangeTimeouts | None = None
) -> tuple[list[EmbedEvent], P2PNetError | None]:
    """What came out before the end, and the error it ended with."""
    network = await network_with(handler)
    events: list[EmbedEvent] = []
    try:
        async for event in embed(network, WORKER, request or ask(), timeouts=timeouts or ExchangeTimeouts()):
            events.append(event)
    except P2PNetError as error:
        return events, error
    return events, None


HONEST = (ACCEPTED, vector(1), vector(0), FINISHED)


async def test_vectors_come_in_any_order() -> None:
    assert await run(says(framed(*HONEST))) == (list(HONEST), None)


async def test_an_answer_in_any_pieces_is_the_same() -> None:
    data = framed(*HONEST)
    for cut in range(1, len(data)):
        assert await run(says(data[:cut], data[cut:])) == (list(HONEST), None)


async def test_the_longest_vectors_pass() -> None:
    answer = (ACCEPTED, vector(0, *[0.5] * MAX_DIMENSIONS), FINISHED)
    assert await run(says(framed(*answer)), ask(1, MAX_DIMENSIONS)) == (list(answer), None)


async def test_numbers_as_large_as_they_can_be_are_finite() -> None:
    answer = (ACCEPTED, vector(0, *[3.4028234663852886e38] * MAX_DIMENSIONS), FINISHED)
    assert await run(says(framed(*answer)), ask(1)) == (list(answer), None)


async def test_the_worker_receives_the_request() -> None:
    received: list[EmbedRequest] = []

    async def handle(stream: Stream) -> None:
        received.extend(embed_request_decoder().feed(await stream.read()))
        await stream.write(framed(ACCEPTED, vector(0), FINISHED))

    await run(handle, ask(1))
    assert received == [ask(1)]


NAN, INFINITY = float("nan"), float("inf")

LIES: list[tuple[str, tuple[EmbedEvent | TextDelta, ...], EmbedRequest]] = [
    ("a vector before it is accepted", (vector(0),), ask()),
    ("finished before it is accepted", (FINISHED,), ask()),
    ("finished without vectors", (ACCEPTED, FINISHED), ask()),
    ("finished with one missing", (ACCEPTED, vector(1), FINISHED), ask()),
    ("the same input twice", (ACCEPTED, vector(1), vector(1)), ask()),
    ("an input that there is not", (ACCEPTED, vector(2)), ask()),
    ("vectors of two lengths", (ACCEPTED, vector(0, 1.0), vector(1, 1.0, 2.0)), ask()),
    ("more dimensions than asked for", (ACCEPTED, vector(0, 1.0, 2.0)), ask(dimensions=1)),
    ("fewer dimensions than asked for", (ACCEPTED, vector(0, 1.0, 2.0)), ask(dimensions=3)),
    ("half a number", (ACCEPTED, Embedding(0, bytes(6))), ask()),
    ("no number", (ACCEPTED, vector(0, 1.0, NAN)), ask()),
    ("an infinite number", (ACCEPTED, vector(0, INFINITY, 1.0)), ask()),
    ("infinities that cancel one another", (ACCEPTED, vector(0, INFINITY, -INFINITY)), ask()),
    ("an empty vector", (ACCEPTED, Embedding(0, b"")), ask()),
    ("too long a vector", (ACCEPTED, Embedding(0, bytes(4 * MAX_DIMENSIONS + 4))), ask()),
    ("text", (ACCEPTED, TextDelta("Hello", (1,))), ask()),
    ("accepted twice", (ACCEPTED, ACCEPTED), ask()),
]


@pytest.mark.parametrize(("events", "request_"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
async def test_a_lie_is_a_violation_and_no_success(
    events: tuple[EmbedEvent | TextDelta, ...], request_: EmbedRequest
) -> None:
    forever = asyncio.Event()
    came, error = await run(says(*(framed(event) for event in events), then=forever.wait), request_)
    assert type(error) is ProtocolViolation
    assert not any(isinstance(event, Finished) for event in came)


@pytest.mark.parametrize("more", [framed(vector(0)), framed(FINISHED), b"\x00"])
async def test_an_end_that_comes_with_more_behind_it_is_none(more: bytes) -> None:
    assert type((await run(says(framed(*HONEST) + more)))[1]) is ProtocolViolation


async def test_a_frame_that_is_too_large_is_not_read() -> None:
    head = (MAX_EMBED_EVENT_FRAME_BYTES + 1).to_bytes(4, "big")
    assert type((await run(says(framed(ACCEPTED), head)))[1]) is ProtocolViolation


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
async def test_a_worker_that_goes_before_the_end_is_lost(sent: int) -> None:
    events, error = await run(says(framed(*HONEST[:sent])))
    assert (events, type(error)) == (list(HONEST[:sent]), PeerLost)


@pytest.mark.parametrize("sent", [0, 1, 2])
async def test_a_worker_that_falls_silent_is_lost(sent: int) -> None:
    forever = asyncio.Event()
    events, error = await run(says(framed(*HONEST[:sent]), then=forever.wait), timeouts=SHORT)
    assert (events, type(error)) == (list(HONEST[:sent]), PeerSilent)


@pytest.mark.parametrize(
    ("code", "kind"), [("busy", Busy), ("model_not_found", ModelNotFound), ("invalid_request", InvalidRequest)]
)
async def test_a_failure_is_the_error_of_its_code(code: str, kind: type[P2PNetError]) -> None:
    events, error = await run(says(framed(ACCEPTED, vector(0), Failed(code, "the reason"))))
    assert (len(events), type(error), str(error)) == (2, kind, 'A worker said: "the reason"')


async def test_a_request_that_fits_no_frame_is_the_clients_fault() -> None:
    request = EmbedRequest("r1", "vectors", (TextPrompt("x" * (3 << 20)),) * 2)
    assert type((await run(says(framed(*HONEST)), request))[1]) is InvalidRequest


async def test_a_worker_that_is_not_there_is_unreachable() -> None:
    network = MemoryWorld(validator(ManualClock())).join(CLIENT)
    with pytest.raises(PeerUnreachable):
        _ = [event async for event in embed(network, WORKER, ask())]


async def test_closing_early_closes_the_stream() -> None:
    ended = asyncio.Event()

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(framed(ACCEPTED, vector(0)))
        assert await stream.read() == b""
        ended.set()

    async with aclosing(embed(await network_with(handle), WORKER, ask())) as events:
        assert await anext(events) == ACCEPTED
    async with asyncio.timeout(5):
        await ended.wait()
