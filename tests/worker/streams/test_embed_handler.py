"""One inbound embed stream: vectors, refusals, clients that go away, lie or stop reading, and backends that break."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator, Callable

import pytest

from p2pnet import client
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.embed_messages import Embedding, EmbedEvent, EmbedRequest
from p2pnet.errors import (
    ContextOverflow,
    Draining,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    PeerUnreachable,
    WorkerFailed,
)
from p2pnet.messages import Accepted, Failed, Finished, TextPrompt, Usage
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.records import ModelCard
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, embed_event_decoder, encode_frame
from p2pnet.wire.exchange import EMBED_PROTOCOL, GENERATE_PROTOCOL
from p2pnet.worker.backend import BackendLoad, EmbedBackendEvent
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.arrivals import MAX_UNREAD_REQUESTS
from p2pnet.worker.streams.embed_handler import READ_AHEAD_VECTORS, EmbedHandler
from p2pnet.worker.streams.generate_handler import GenerateHandler
from tests.stories import ManualClock, ask, card, peer, settle

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

ACCEPTED = Accepted(3)
FINISHED = Finished("stop", Usage(3, 0))
REQUEST = EmbedRequest("r1", "vectors", (TextPrompt("a"), TextPrompt("b")))

Step = EmbedBackendEvent | BaseException | asyncio.Event


def vector(index: int, *numbers: float) -> Embedding:
    return Embedding(index, struct.pack(f"<{len(numbers)}f", *numbers))


ANSWER = (ACCEPTED, vector(1, 1.0, 2.0), vector(0, 0.5, -1.0), FINISHED)


class ScriptedVectors:
    """A backend that plays a script of events, errors and gates."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
        self.given = 0
        self.running = 0

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (card("vectors", task="embed"),)

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def embed(self, request: EmbedRequest) -> AsyncGenerator[EmbedBackendEvent, None]:
        self.running += 1
        try:
            for step in self.steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    self.given += 1
                    yield step
        finally:
            self.running -= 1

    async def close(self) -> None:
        """Nothing to free."""


class Site:
    """A worker that embeds and generates nothing, and a client that speaks to it in bytes."""

    def __init__(
        self, *steps: Step, slots: int = 2, refusal: Callable[[], P2PNetError | None] = lambda: None, **timeouts: float
    ) -> None:
        self.backend = ScriptedVectors(*steps)
        catalogue = Catalogue([self.backend])  # type: ignore[list-item]
        clock = ManualClock()
        self.meter = LoadMeter(slots, catalogue, clock, lambda: clock.now_ms / 1000)
        self.handler = EmbedHandler(
            lambda model: self.backend if model == "vectors" else None,
            self.meter,
            ExchangeTimeouts(**timeouts),
            refusal,
        )
        self.generating = GenerateHandler(catalogue.find, self.meter)
        world = MemoryWorld(validator(clock))
        self._worker = world.join(WORKER)
        self.client: MemoryNetwork = world.join(CLIENT)

    async def serve(self) -> None:
        await self._worker.handle(EMBED_PROTOCOL, self.handler)
        await self._worker.handle(GENERATE_PROTOCOL, self.generating)

    async def open(self, *data: bytes | EmbedRequest) -> Stream:
        await self.serve()
        stream = await self.client.open_stream(WORKER, EMBED_PROTOCOL)
        for item in data:
            await stream.write(item if isinstance(item, bytes) else framed(item))
        return stream

    async def ask(self, *data: bytes | EmbedRequest) -> list[EmbedEvent]:
        """Everything that is answered, up to the stream's end."""
        return await events_of(await self.open(*data))

    def is_free(self) -> bool:
        return (self.meter.load.running, self.meter.load.queued) == (0, 0)


def framed(request: EmbedRequest) -> bytes:
    return encode_frame(request, MAX_REQUEST_FRAME_BYTES)


async def events_of(stream: Stream) -> list[EmbedEvent]:
    decoder, events = embed_event_decoder(), list[EmbedEvent]()
    while data := await stream.read():
        events += decoder.feed(data)
    assert decoder.is_empty
    return events


def only_failure(events: list[EmbedEvent]) -> Failed:
    (failure,) = events
    assert isinstance(failure, Failed)
    return failure


# ---- answers


async def test_vectors_come_as_the_backend_gives_them_with_the_load() -> None:
    gate = asyncio.Event()
    site = Site(ACCEPTED, gate, *ANSWER[1:])
    stream = await site.open(REQUEST)
    await settle(lambda: site.backend.given == 1)
    gate.set()
    accepted, *vectors, finished = await events_of(stream)
    assert vectors == list(ANSWER[1:3])
    assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
    assert (accepted.prompt_tokens, accepted.load.queued, accepted.load.slots) == (3, 1, 2)
    assert (finished.usage, finished.load.running, finished.load.queued) == (Usage(3, 0), 0, 0)
    await settle(site.is_free)
    assert site.meter.requests_served == 1


async def test_a_client_gets_what_a_backend_gives() -> None:
    site = Site(*ANSWER)
    await site.serve()
    events = [event async for event in client.embed(site.client, WORKER, REQUEST)]
    assert [event for event in events if isinstance(event, Embedding)] == list(ANSWER[1:3])


async def test_a_large_answer_passes() -> None:
    vectors = [vector(index, *[0.25] * 16384) for index in range(32)]
    site = Site(ACCEPTED, *vectors, FINISHED)
    assert (await site.ask(REQUEST))[1:-1] == vectors


async def test_a_request_that_computes_counts_as_running() -> None:
    gate = asyncio.Event()
    site = Site(ACCEPTED, vector(0, 1.0), gate, vector(1, 1.0), FINISHED)
    stream = await site.open(REQUEST)
    await settle(lambda: site.meter.running == 1)
    gate.set()
    await events_of(stream)
    assert site.is_free()


# ---- refusals


async def test_a_generation_by_a_model_that_only_embeds_is_refused() -> None:
    site = Site(*ANSWER)
    await site.serve()
    with pytest.raises(ModelNotFound):
        _ = [event async for event in client.generate(site.client, WORKER, ask("vectors"))]


async def test_a_model_that_is_not_there_is_not_found() -> None:
    failure = only_failure(await Site(*ANSWER).ask(EmbedRequest("r1", "other", (TextPrompt("a"),))))
    assert failure.code == "model_not_found" and "other" in failure.message


async def test_a_worker_without_vectors_does_not_speak_the_protocol() -> None:
    world = MemoryWorld(validator(ManualClock()))
    world.join(WORKER)
    with pytest.raises(PeerUnreachable):
        _ = [event async for event in client.embed(world.join(CLIENT), WORKER, REQUEST)]


async def test_all_slots_taken_is_busy_at_once_and_leaves_other_tasks_alone() -> None:
    gate = asyncio.Event()
    site = Site(ACCEPTED, gate, slots=1)
    await site.open(REQUEST)
    await settle(lambda: site.meter.load.queued == 1)
    assert only_failure(await site.ask(REQUEST)).code == "busy"
    with site.meter.slot("vectors", "generate"):
        gate.set()


async def test_paused_and_draining_refuse() -> None:
    paused = Site(*ANSWER, refusal=lambda: Draining("the owner is using it"))
    assert only_failure(await paused.ask(REQUEST)) == Failed("draining", "the owner is using it")
    site = Site(*ANSWER)
    await site.handler.drain(1.0)
    assert only_failure(await site.ask(REQUEST)).code == "draining"


REFUSALS = [
    (ContextOverflow("too long", "input"), "context_length_exceeded"),
    (InvalidRequest("not in the vocabulary", "input"), "invalid_request"),
    (WorkerFailed("the model failed while it computed"), "worker_failed"),
    (ZeroDivisionError("a bug"), "worker_failed"),
]


@pytest.mark.parametrize(("error", "code"), REFUSALS, ids=[code for _, code in REFUSALS])
@pytest.mark.parametrize("before", [(), ANSWER[:2]], ids=["first", "later"])
async def test_a_failure_is_told_by_its_code(error: Exception, code: str, before: tuple[Step, ...]) -> None:
    site = Site(*before, error)
    events = await site.ask(REQUEST)
    assert isinstance(events[-1], Failed) and events[-1].code == code and len(events) == len(before) + 1
    assert "a bug" not in events[-1].message
    await settle(site.is_free)


BAD_REQUESTS = [
    ("not msgpack", b"\x00\x00\x00\x03abc"),
    ("a generation", encode_frame(ask(), MAX_REQUEST_FRAME_BYTES)),
    ("too large", (MAX_REQUEST_FRAME_BYTES + 1).to_bytes(4, "big")),
    ("two requests", framed(REQUEST) * 2),
    ("more than a request", framed(REQUEST) + b"\x00"),
    ("no inputs", encode_frame({"type": "embed", "request_id": "r", "model": "vectors", "inputs": []}, 1000)),
    (
        "too many inputs",
        encode_frame(
            {"type": "embed", "request_id": "r", "model": "vectors", "inputs": [{"type": "text", "text": ""}] * 2049},
            1 << 20,
        ),
    ),
]


@pytest.mark.parametrize("data", [case[1] for case in BAD_REQUESTS], ids=[case[0] for case in BAD_REQUESTS])
async def test_what_is_no_request_is_a_violation(data: bytes) -> None:
    site = Site(*ANSWER)
    assert only_failure(await site.ask(data)).code == "protocol_violation"
    assert site.backend.given == 0


async def test_a_request_that_does_not_come_whole_in_time_is_given_up() -> None:
    site = Site(*ANSWER, request_s=0.03)
    assert only_failure(await site.ask(framed(REQUEST)[:-1])).code == "protocol_violation"


async def test_of_too_many_requests_on_their_way_the_oldest_is_told_busy() -> None:
    site = Site(*ANSWER)
    waiting = [await site.open(framed(REQUEST)[:3]) for _ in range(MAX_UNREAD_REQUESTS)]
    await settle(lambda: site.handler.unread == MAX_UNREAD_REQUESTS)
    assert isinstance((await site.ask(REQUEST))[-1], Finished)
    assert only_failure(await events_of(waiting.pop(0))).code == "busy"
    for stream in waiting:
        stream.close()
    await settle(lambda: site.handler.unread == 0)


# ---- clients that go


async def test_a_client_that_goes_stops_the_backend() -> None:
    site = Site(ACCEPTED, asyncio.Event())
    stream = await site.open(REQUEST)
    await settle(lambda: site.backend.running == 1)
    stream.close()
    await settle(lambda: site.backend.running == 0 and site.is_free())


async def test_a_client_that_says_more_breaks_the_protocol() -> None:
    site = Site(ACCEPTED, asyncio.Event())
    stream = await site.open(REQUEST)
    await settle(lambda: site.backend.running == 1)
    await stream.write(b"more")
    events = await events_of(stream)
    assert isinstance(events[-1], Failed) and events[-1].code == "protocol_violation"


async def test_a_client_that_does_not_read_holds_the_backend_back_and_is_given_up() -> None:
    vectors = [vector(0, *[0.0] * 16384)] * 500
    site = Site(ACCEPTED, *vectors, FINISHED, stall_s=0.05)
    stream = await site.open(REQUEST)
    await settle(lambda: site.backend.running == 1)
    async with asyncio.timeout(5):
        await site.meter.wait_idle()
    assert site.backend.running == 0
    assert site.backend.given <= 3 * READ_AHEAD_VECTORS
    stream.close()
