"""The client against workers that send scores they should not: none is believed that breaks the rules."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from p2pnet.client import generate, score
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.errors import InvalidRequest, P2PNetError, PeerLost, PeerSilent, ProtocolViolation
from p2pnet.messages import Accepted, Failed, Finished, TextDelta, TextPrompt, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.score_messages import MAX_SCORED_MARGINS, Scored, ScoreEvent, ScoreRequest
from p2pnet.wire.codec import MAX_SCORE_EVENT_FRAME_BYTES, encode_frame, score_request_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL, SCORE_PROTOCOL
from tests.stories import DIGEST, ManualClock, ask, peer

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

ACCEPTED = Accepted(3, DIGEST, sampler="gumbel-1")
FINISHED = Finished("stop", Usage(3, 0))
SHORT = ExchangeTimeouts(accept_s=0.03, silence_s=0.03)

ENDED = ScoreRequest(ask(digest=DIGEST, sampler="gumbel-1"), (1, 2, 3), "stop")
CUT = msgspec.structs.replace(ENDED, reason=None)
SAYING = msgspec.structs.replace(ENDED, text_hash=bytes(32))
HONEST = (ACCEPTED, Scored.of((0.0, 0.5)), Scored.of((0.25,), 0.125), FINISHED)


def framed(*events: ScoreEvent | TextDelta) -> bytes:
    return b"".join(encode_frame(event, 1 << 20) for event in events)


def says(*chunks: bytes, then: Callable[[], Awaitable[object]] | None = None) -> StreamHandler:
    """A worker that reads its request, writes these bytes, and goes away, or does something else `then`."""

    async def handle(stream: Stream) -> None:
        decoder = score_request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        for chunk in chunks:
            await stream.write(chunk)
        if then is not None:
            await then()

    return handle


async def network_with(handler: StreamHandler) -> MemoryNetwork:
    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(SCORE_PROTOCOL, handler)
    return world.join(CLIENT)


async def run(
    handler: StreamHandler, request: ScoreRequest = ENDED, timeouts: ExchangeTimeouts | None = None
) -> tuple[list[ScoreEvent], P2PNetError | None]:
    """What came out before the end, and the error it ended with."""
    network = await network_with(handler)
    events: list[ScoreEvent] = []
    try:
        async for event in score(network, WORKER, request, timeouts=timeouts or ExchangeTimeouts()):
            events.append(event)
    except P2PNetError as error:
        return events, error
    return events, None


async def test_margins_come_in_pieces_and_the_end_with_the_last() -> None:
    assert await run(says(framed(*HONEST))) == (list(HONEST), None)
    assert HONEST[1].values == (0.0, 0.5) and HONEST[2].values == (0.25,)


async def test_an_answer_in_any_pieces_is_the_same() -> None:
    data = framed(*HONEST)
    for cut in range(1, len(data)):
        assert await run(says(data[:cut], data[cut:])) == (list(HONEST), None)


async def test_the_end_alone_may_be_scored_and_an_answer_without_its_end() -> None:
    no_tokens = msgspec.structs.replace(ENDED, token_ids=())
    for request, events in (
        (no_tokens, (ACCEPTED, Scored.of((), 0.5), FINISHED)),
        (CUT, (ACCEPTED, Scored.of((0.0, 0.0, 0.0)), FINISHED)),
        (SAYING, (ACCEPTED, Scored.of((0.0, 0.0, 0.0), 0.0, 0.5), FINISHED)),
        (SAYING, HONEST),  # as a worker of an earlier version answers
        (msgspec.structs.replace(SAYING, reason=None), (ACCEPTED, Scored.of((0.0,) * 3, None, 0.0), FINISHED)),
    ):
        assert await run(says(framed(*events)), request) == (list(events), None)


async def test_the_largest_event_fits_its_frame() -> None:
    many = ScoreRequest(ENDED.request, (1,) * MAX_SCORED_MARGINS, "stop")
    answer = (ACCEPTED, Scored.of((0.5,) * MAX_SCORED_MARGINS, 0.1), FINISHED)
    assert await run(says(framed(*answer)), many) == (list(answer), None)


async def test_the_worker_receives_the_request() -> None:
    received: list[ScoreRequest] = []

    async def handle(stream: Stream) -> None:
        received.extend(score_request_decoder().feed(await stream.read()))
        await stream.write(framed(*HONEST))

    await run(handle)
    assert received == [ENDED]


NAN, INFINITY = float("nan"), float("inf")

LIES: list[tuple[str, tuple[ScoreEvent | TextDelta, ...], ScoreRequest]] = [
    ("a score before it is accepted", (Scored.of((0.0,)),), ENDED),
    ("finished before it is accepted", (FINISHED,), ENDED),
    ("finished without a score", (ACCEPTED, FINISHED), ENDED),
    ("one margin too few", (ACCEPTED, Scored.of((0.0, 0.0)), FINISHED), CUT),
    ("one margin too many", (ACCEPTED, Scored.of((0.0,) * 4)), CUT),
    ("no end", (ACCEPTED, Scored.of((0.0,) * 3), FINISHED), ENDED),
    ("an end that nobody asked for", (ACCEPTED, Scored.of((0.0,) * 3, 0.0)), CUT),
    ("an end before the last margin", (ACCEPTED, Scored.of((0.0, 0.0), 0.0)), ENDED),
    ("two ends", (ACCEPTED, Scored.of((0.0,) * 3, 0.0), Scored.of((), 0.0)), ENDED),
    ("a margin after the end", (ACCEPTED, Scored.of((0.0,) * 3, 0.0), Scored.of((0.0,))), ENDED),
    ("a text that nobody asked for", (ACCEPTED, Scored.of((0.0,) * 3, 0.0, 0.0)), ENDED),
    ("a text before the last margin", (ACCEPTED, Scored.of((0.0,) * 2, None, 0.0)), SAYING),
    ("a text before the end", (ACCEPTED, Scored.of((0.0,) * 3, None, 0.0)), SAYING),
    ("two texts", (ACCEPTED, Scored.of((0.0,) * 3, 0.0, 0.0), Scored.of((), None, 0.0)), SAYING),
    ("a text beyond what it can be", (ACCEPTED, Scored.of((0.0,) * 3, 0.0, 0.75)), SAYING),
    ("a text that is no number", (ACCEPTED, Scored.of((0.0,) * 3, 0.0, NAN)), SAYING),
    ("a score of nothing", (ACCEPTED, Scored()), ENDED),
    ("half a number", (ACCEPTED, Scored(bytes(6))), ENDED),
    ("no number", (ACCEPTED, Scored.of((0.0, NAN))), ENDED),
    ("an infinite one", (ACCEPTED, Scored.of((INFINITY,))), ENDED),
    ("more than a margin can be", (ACCEPTED, Scored.of((0.51,))), ENDED),
    ("less than a margin can be", (ACCEPTED, Scored.of((-0.01,))), ENDED),
    ("an end that is no number", (ACCEPTED, Scored.of((0.0,) * 3, NAN)), ENDED),
    ("an end beyond what it can be", (ACCEPTED, Scored.of((0.0,) * 3, 0.75)), ENDED),
    ("more in an event than fits", (ACCEPTED, Scored(bytes(4 * MAX_SCORED_MARGINS + 4))), ENDED),
    ("text", (ACCEPTED, TextDelta("Hello", (1,))), ENDED),
    ("accepted twice", (ACCEPTED, ACCEPTED), ENDED),
]


@pytest.mark.parametrize(("events", "request_"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
async def test_a_lie_is_a_violation_and_no_success(
    events: tuple[ScoreEvent | TextDelta, ...], request_: ScoreRequest
) -> None:
    forever = asyncio.Event()
    came, error = await run(says(*(framed(event) for event in events), then=forever.wait), request_)
    assert type(error) is ProtocolViolation
    assert not any(isinstance(event, Finished) for event in came)


@pytest.mark.parametrize("more", [framed(Scored.of((0.0,))), framed(FINISHED), b"\x00"])
async def test_an_end_that_comes_with_more_behind_it_is_none(more: bytes) -> None:
    assert type((await run(says(framed(*HONEST) + more)))[1]) is ProtocolViolation


async def test_a_frame_that_is_too_large_is_not_read() -> None:
    head = (MAX_SCORE_EVENT_FRAME_BYTES + 1).to_bytes(4, "big")
    assert type((await run(says(framed(ACCEPTED), head)))[1]) is ProtocolViolation


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
async def test_a_worker_that_goes_or_falls_silent_before_the_end_is_lost(sent: int) -> None:
    forever = asyncio.Event()
    events, error = await run(says(framed(*HONEST[:sent])))
    assert (events, type(error)) == (list(HONEST[:sent]), PeerLost)
    events, error = await run(says(framed(*HONEST[:sent]), then=forever.wait), timeouts=SHORT)
    assert (events, type(error)) == (list(HONEST[:sent]), PeerSilent)


async def test_a_failure_is_the_error_of_its_code() -> None:
    _, error = await run(says(framed(Failed("invalid_request", "the reason", "digest"))))
    assert isinstance(error, InvalidRequest)
    assert (str(error), error.param) == ('A worker said: "the reason"', "digest")


async def test_a_request_that_fits_no_frame_is_the_clients_fault() -> None:
    large = msgspec.structs.replace(ENDED.request, prompt=TextPrompt("x" * (4 << 20)))
    assert type((await run(says(framed(*HONEST)), ScoreRequest(large, (1,))))[1]) is InvalidRequest


async def test_closing_early_closes_the_stream() -> None:
    ended = asyncio.Event()

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(framed(ACCEPTED, Scored.of((0.0,))))
        assert await stream.read() == b""
        ended.set()

    async with aclosing(score(await network_with(handle), WORKER, ENDED)) as events:
        assert await anext(events) == ACCEPTED
    async with asyncio.timeout(5):
        await ended.wait()


def test_margins_are_little_endian_floats() -> None:
    assert Scored.of((0.5, 0.0)).margins == struct.pack("<2f", 0.5, 0.0) == bytes.fromhex("0000003f00000000")


# ---- scores of what an answer goes on after


RESUMED = ask(max_tokens=8, resume_tokens=(1, 2, 3), score_resume=True)
DELTA = TextDelta("a", (4,))
TOLD: dict[str, tuple[tuple[ScoreEvent | TextDelta, ...], bool]] = {
    "before the first delta": ((Scored.of((0.0, 0.25)), Scored.of((0.5,)), DELTA, FINISHED), True),
    "of an answer that was complete": ((FINISHED,), True),
    "none": ((DELTA, FINISHED), False),
    "too few": ((Scored.of((0.0, 0.25)), DELTA, FINISHED), False),
    "too many": ((Scored.of((0.0,) * 4), DELTA, FINISHED), False),
    "too late": ((DELTA, Scored.of((0.0,) * 3), FINISHED), False),
    "an end": ((Scored.of((0.0,) * 3, 0.0), DELTA, FINISHED), False),
    "no numbers": ((Scored.of((NAN,) * 3), DELTA, FINISHED), False),
}


@pytest.mark.parametrize(("events", "is_taken"), TOLD.values(), ids=TOLD)
async def test_scores_of_resumed_tokens_are_given_aside(
    events: tuple[ScoreEvent | TextDelta, ...], is_taken: bool
) -> None:
    world = MemoryWorld(validator(ManualClock()))

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(framed(ACCEPTED, *events))

    await world.join(WORKER).handle(GENERATE_PROTOCOL, handle)
    scores: list[float] = []
    answer = generate(world.join(CLIENT), WORKER, RESUMED, note_scored=lambda scored: scores.extend(scored.values))
    if not is_taken:
        with pytest.raises(ProtocolViolation):
            _ = [event async for event in answer]
        return
    assert [event async for event in answer] == [ACCEPTED, *(each for each in events if not isinstance(each, Scored))]
    assert scores == ([0.0, 0.25, 0.5] if len(events) > 1 else [])


async def test_scores_that_nobody_asked_for_are_a_violation() -> None:
    world = MemoryWorld(validator(ManualClock()))

    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(framed(ACCEPTED, Scored.of((0.0,)), DELTA, FINISHED))

    await world.join(WORKER).handle(GENERATE_PROTOCOL, handle)
    with pytest.raises(ProtocolViolation, match="more margins than tokens"):
        _ = [event async for event in generate(world.join(CLIENT), WORKER, ask(max_tokens=8))]
