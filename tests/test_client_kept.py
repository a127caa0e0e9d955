"""A client that keeps its streams, against workers that wait for more, that do not, that end too soon, and that lie."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import msgspec
import pytest

from p2pnet.client import embed, generate
from p2pnet.directory import validator
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import Busy, P2PNetError, PeerLost, ProtocolViolation
from p2pnet.messages import (
    Accepted,
    Event,
    Failed,
    Finished,
    GenerateRequest,
    TextDelta,
    TextPrompt,
    Usage,
)
from p2pnet.network.interface import Stream
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryWorld
from p2pnet.wire.codec import (
    MAX_EMBED_EVENT_FRAME_BYTES,
    MAX_EVENT_FRAME_BYTES,
    embed_request_decoder,
    encode_frame,
    request_decoder,
)
from p2pnet.wire.exchange import EMBED_PROTOCOL, GENERATE_PROTOCOL
from tests.stories import DIGEST, ManualClock, ask, peer, settle

WORKER = peer("worker").peer_id
ACCEPTED, DELTA = Accepted(3, DIGEST), TextDelta("Hello", (1, 2))
KEPT = Finished("stop", Usage(3, 2), keep_stream=True)
ENDED = Finished("stop", Usage(3, 2))

Turn = Callable[[Stream], Awaitable[bool]]
"""What a worker does with one request; whether it reads another one on the stream then."""


def framed(*events: Event) -> bytes:
    return b"".join(encode_frame(event, MAX_EVENT_FRAME_BYTES) for event in events)


def says(data: bytes, reads_on: bool = True) -> Turn:
    async def turn(stream: Stream) -> bool:
        await stream.write(data)
        return reads_on

    return turn


ANSWERS = says(framed(ACCEPTED, DELTA, KEPT))


class Site:
    """A worker whose turns are given one after another, the last one for ever, and a client that keeps streams."""

    def __init__(self, *turns: Turn, max_streams: int = 1000) -> None:
        self.turns = list(turns)
        self.max_streams = max_streams
        self.requests: list[tuple[int, GenerateRequest]] = []
        """With the number of the stream on which each came."""
        self.streams: list[Stream] = []
        self.kept = KeptStreams()
        self.world = MemoryWorld(validator(ManualClock()))
        self.worker = self.world.join(WORKER)
        self.client = self.world.join(peer("client").peer_id)

    async def run(self, kept: bool = True) -> list[Event] | P2PNetError:
        """One request: what has come of it, or why it failed."""
        await self.worker.handle(GENERATE_PROTOCOL, self._serve)
        try:
            return [event async for event in generate(self.client, WORKER, ask(), kept=self.kept if kept else None)]
        except P2PNetError as error:
            return error

    async def _serve(self, stream: Stream) -> None:
        number = len(self.streams)
        self.streams.append(stream)
        decoder = request_decoder()
        while data := await stream.read():
            for request in decoder.feed(data):
                self.requests.append((number, request))
                turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
                if not await turn(stream):
                    return

    def streams_asked(self) -> list[int]:
        return [number for number, _ in self.requests]


async def test_requests_after_one_another_go_over_one_stream() -> None:
    site = Site(ANSWERS)
    for _ in range(3):
        assert await site.run() == [ACCEPTED, DELTA, KEPT]
    assert site.streams_asked() == [0, 0, 0]
    assert all(request.keep_stream for _, request in site.requests)
    assert len(site.kept) == 1


async def test_requests_at_the_same_time_have_a_stream_each() -> None:
    site = Site(ANSWERS)
    answers = await asyncio.gather(*(site.run() for _ in range(4)))
    assert answers == [[ACCEPTED, DELTA, KEPT]] * 4
    assert sorted(site.streams_asked()) == [0, 1, 2, 3]
    assert len(site.kept) == 4


async def test_a_worker_that_keeps_nothing_gets_a_stream_for_each_request() -> None:
    """As one of an earlier version, which does not know the field."""
    site = Site(says(framed(ACCEPTED, DELTA, ENDED), reads_on=False))
    for _ in range(3):
        assert await site.run() == [ACCEPTED, DELTA, ENDED]
    assert site.streams_asked() == [0, 1, 2]
    assert (len(site.kept), site.client.open_streams) == (0, 0)


async def test_a_client_that_keeps_nothing_does_not_say_so_and_closes() -> None:
    site = Site(ANSWERS)
    for _ in range(2):
        assert await site.run(kept=False) == [ACCEPTED, DELTA, KEPT]
    assert site.streams_asked() == [0, 1]
    assert not any(request.keep_stream for _, request in site.requests)
    assert site.client.open_streams == 0


async def test_a_request_that_meets_the_end_of_its_stream_is_asked_once_more_on_a_new_one() -> None:
    """The worker has closed the stream, and the client has not heard of it yet."""
    site = Site(ANSWERS)
    await site.run()
    site.streams[0].close()
    assert await site.run() == [ACCEPTED, DELTA, KEPT]
    assert site.streams_asked() == [0, 1], "the one that met the end was never read"


@pytest.mark.parametrize("reads", [True, False], ids=["after reading it", "before"])
async def test_a_worker_that_ends_each_stream_is_not_asked_for_ever(reads: bool) -> None:
    async def goes(stream: Stream) -> bool:
        return False

    site = Site(ANSWERS, goes)
    await site.run()
    if not reads:
        site.streams[0].close()
    assert isinstance(await site.run(), PeerLost)
    assert len(site.streams) == 2, "the kept one, and a new one"
    assert len(site.kept) == 0


@pytest.mark.parametrize("said", [framed(ACCEPTED)[:1], framed(ACCEPTED), framed(ACCEPTED, DELTA)])
async def test_what_had_been_begun_is_not_asked_again(said: bytes) -> None:
    site = Site(ANSWERS, says(said, reads_on=False))
    await site.run()
    assert isinstance(await site.run(), PeerLost)
    assert site.streams_asked() == [0, 0]


async def test_bytes_on_an_idle_stream_are_no_answer_to_what_is_asked_next() -> None:
    site = Site(says(framed(ACCEPTED, DELTA, KEPT)))
    await site.run()
    await site.streams[0].write(framed(ACCEPTED, TextDelta("forged", (9,)), KEPT))
    assert await site.run() == [ACCEPTED, DELTA, KEPT]
    assert site.streams_asked() == [0, 1]


async def test_bytes_behind_the_last_event_are_a_violation_all_the_same() -> None:
    site = Site(says(framed(ACCEPTED, KEPT) + b"\0"))
    assert isinstance(await site.run(), ProtocolViolation)
    assert (len(site.kept), site.client.open_streams) == (0, 0)


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ((Failed("busy"),), Busy),
        ((ACCEPTED, DELTA, Failed("busy")), Busy),
        ((ACCEPTED, TextDelta("x", choice=1), KEPT), ProtocolViolation),
    ],
)
async def test_what_did_not_end_well_is_not_kept(events: tuple[Event, ...], error: type[P2PNetError]) -> None:
    site = Site(says(framed(*events)))
    assert isinstance(await site.run(), error)
    assert (len(site.kept), site.client.open_streams) == (0, 0)


async def test_an_answer_that_nobody_wants_any_more_closes_its_stream() -> None:
    site = Site(says(framed(ACCEPTED, DELTA)))
    await site.worker.handle(GENERATE_PROTOCOL, site._serve)
    async with aclosing(generate(site.client, WORKER, ask(), kept=site.kept)) as events:
        assert await anext(events) == ACCEPTED
    assert (len(site.kept), site.client.open_streams) == (0, 0)


class Thanks:
    """A witness that has something to say at the end."""

    def note_request(self, body: bytes) -> None: ...
    def note(self, event: Accepted | TextDelta | Finished) -> None: ...
    def note_failed(self, failed: Failed) -> None: ...
    def last_word(self) -> bytes | None:
        return b"thanks"


async def test_the_last_word_goes_along_with_the_next_request() -> None:
    said: list[bytes] = []

    async def serve(stream: Stream) -> None:
        while data := await stream.read():
            said.append(data)
            await stream.write(framed(ACCEPTED, DELTA, KEPT))

    site = Site(ANSWERS)
    await site.worker.handle(GENERATE_PROTOCOL, serve)
    for _ in range(2):
        async for _ in generate(site.client, WORKER, ask(), witness=Thanks(), kept=site.kept):
            pass
    request = encode_frame(msgspec.structs.replace(ask(), keep_stream=True), 1 << 20)
    assert said == [request, b"thanks" + request]


async def test_vectors_come_over_kept_streams_too() -> None:
    vector = Embedding(0, bytes(8))
    streams = 0
    requests: list[EmbedRequest] = []

    async def serve(stream: Stream) -> None:
        nonlocal streams
        streams += 1
        decoder = embed_request_decoder()
        while data := await stream.read():
            requests.extend(decoder.feed(data))
            frames = [encode_frame(event, MAX_EMBED_EVENT_FRAME_BYTES) for event in (ACCEPTED, vector, KEPT)]
            await stream.write(b"".join(frames))

    site = Site(ANSWERS)
    await site.worker.handle(EMBED_PROTOCOL, serve)
    for _ in range(2):
        asked = EmbedRequest("r", "m", (TextPrompt("hi"),))
        assert [event async for event in embed(site.client, WORKER, asked, kept=site.kept)] == [ACCEPTED, vector, KEPT]
    assert (streams, [request.keep_stream for request in requests]) == (1, [True, True])
    await site.kept.close()
    await settle(lambda: site.client.open_streams == 0)
