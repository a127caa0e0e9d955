"""One inbound rerank stream: scores, refusals, its one slot, and a client that goes away or does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest

from p2pnet import client
from p2pnet.config import ExchangeTimeouts
from p2pnet.directory import validator
from p2pnet.errors import Busy, ContextOverflow, Draining, ModelNotFound, P2PNetError, WorkerFailed
from p2pnet.messages import Accepted, Finished, Usage
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryWorld
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import MAX_DOCUMENTS, Relevance, RerankEvent, RerankRequest
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, encode_frame
from p2pnet.wire.exchange import RERANK_PROTOCOL
from p2pnet.worker.backend import BackendLoad, RerankBackendEvent
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.rerank_handler import RerankHandler
from tests.stories import ManualClock, card, peer, settle

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id
REQUEST = RerankRequest("r1", "ranks", "q", ("a", "b"))
ANSWER = (Accepted(4), Relevance(1, 0.5), Relevance(0, -2.0), Finished("stop", Usage(4, 0)))

Step = RerankBackendEvent | BaseException | asyncio.Event


class ScriptedRanks:
    """A backend that plays a script of events, errors and gates."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.given = 0
        self.running = 0

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return (card("ranks", task="embed", features=("rerank",)), card("vectors", task="embed"))

    @property
    def load(self) -> BackendLoad:
        return BackendLoad()

    async def rerank(self, request: RerankRequest) -> AsyncGenerator[RerankBackendEvent, None]:
        self.running += 1
        try:
            for step in self.script:
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
    """A worker that ranks, and a client on the memory network."""

    def __init__(
        self, *script: Step, slots: int = 1, refusal: Callable[[], P2PNetError | None] = lambda: None, **timeouts: float
    ) -> None:
        self.backend = ScriptedRanks(*script)
        catalogue = Catalogue([], [self.backend])
        clock = ManualClock()
        self.meter = LoadMeter(slots, catalogue, clock, lambda: clock.now_ms / 1000)
        self.handler = RerankHandler(catalogue.find_reranker, self.meter, ExchangeTimeouts(**timeouts), refusal)
        world = MemoryWorld(validator(clock))
        self._worker = world.join(WORKER)
        self.client = world.join(CLIENT)
        self.kept = KeptStreams()

    async def serve(self) -> None:
        await self._worker.handle(RERANK_PROTOCOL, self.handler)

    async def ask(self, request: RerankRequest = REQUEST) -> list[RerankEvent]:
        await self.serve()
        return [event async for event in client.rerank(self.client, WORKER, request, kept=self.kept)]

    def is_free(self) -> bool:
        return (self.meter.load.running, self.meter.load.queued, self.backend.running) == (0, 0, 0)


async def test_scores_come_as_the_backend_gives_them_with_the_load() -> None:
    site = Site(*ANSWER)
    for _ in range(2):  # the second on the stream that was kept
        accepted, *scores, finished = await site.ask()
        assert scores == list(ANSWER[1:3])
        assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
        assert (accepted.prompt_tokens, accepted.load.slots) == (4, 2), "one of each model"
        assert (finished.usage, finished.load.running, finished.load.queued) == (Usage(4, 0), 0, 0)
        assert finished.keep_stream
    assert site.meter.requests_served == 2
    await site.kept.close()


async def test_many_documents_take_one_slot_which_is_running_once_a_score_is_there() -> None:
    """Given a model of one slot, when it ranks, then others are told busy, until it has finished."""
    before, between = asyncio.Event(), asyncio.Event()
    site = Site(ANSWER[0], before, ANSWER[1], between, *ANSWER[2:])
    first = asyncio.create_task(site.ask())
    await settle(lambda: site.backend.given == 1)
    assert (site.meter.load.running, site.meter.load.queued) == (0, 1)
    with pytest.raises(Busy):
        await site.ask()
    before.set()
    await settle(lambda: site.meter.running == 1)
    with pytest.raises(Busy):
        await site.ask()
    between.set()
    assert len(await first) == len(ANSWER)
    assert site.is_free()
    assert len(await site.ask()) == len(ANSWER)
    await site.kept.close()


async def test_one_that_is_under_way_is_finished_while_the_worker_drains() -> None:
    gate = asyncio.Event()
    site = Site(ANSWER[0], gate, *ANSWER[1:], slots=2)
    first = asyncio.create_task(site.ask())
    await settle(lambda: site.backend.given == 1)
    draining = asyncio.create_task(site.handler.drain(5.0))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await site.ask()
    gate.set()
    assert len(await first) == len(ANSWER)
    await draining
    await site.kept.close()


async def test_a_worker_that_its_owner_has_paused_refuses() -> None:
    with pytest.raises(Draining, match="the owner is using it"):
        await Site(*ANSWER, refusal=lambda: Draining("the owner is using it")).ask()


@pytest.mark.parametrize("model", ["other", "vectors"])
async def test_a_model_that_does_not_rank_is_not_found(model: str) -> None:
    with pytest.raises(ModelNotFound, match=model):
        await Site(*ANSWER).ask(RerankRequest("r1", model, "q", ("a",)))


FAILURES: dict[str, tuple[Exception, type[P2PNetError]]] = {
    "too long": (ContextOverflow("too long", "documents"), ContextOverflow),
    "not there": (ModelNotFound("no", "model"), ModelNotFound),
    "a model that fails": (WorkerFailed("the model failed while it computed"), WorkerFailed),
    "a bug": (ZeroDivisionError("a bug"), WorkerFailed),
}


@pytest.mark.parametrize(("error", "told"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("before", [(), ANSWER[:2]], ids=["first", "later"])
async def test_failures_are_told_and_free_the_slot(
    error: Exception, told: type[P2PNetError], before: tuple[Step, ...]
) -> None:
    site = Site(*before, error)
    with pytest.raises(told) as caught:
        await site.ask()
    assert "a bug" not in str(caught.value)
    await settle(site.is_free)


def framed(**fields: object) -> bytes:
    whole = {"type": "rerank", "request_id": "r", "model": "ranks", "query": "q", "documents": ["a"], **fields}
    return encode_frame(whole, MAX_REQUEST_FRAME_BYTES)


BAD_REQUESTS = {
    "not msgpack": b"\x00\x00\x00\x03abc",
    "no documents": framed(documents=[]),
    "too many documents": framed(documents=["a"] * (MAX_DOCUMENTS + 1)),
    "no query": framed(query=""),
    "a document that is none": framed(documents=[1]),
    "two requests": framed() * 2,
}


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
async def test_what_is_no_request_is_a_violation(data: bytes) -> None:
    site = Site(*ANSWER)
    await site.serve()
    stream = await site.client.open_stream(WORKER, RERANK_PROTOCOL)
    await stream.write(data)
    answer = b""
    while more := await stream.read():
        answer += more
    assert b"protocol_violation" in answer
    assert site.backend.given == 0 and site.is_free()


async def test_a_client_that_goes_stops_the_backend() -> None:
    site = Site(ANSWER[0], asyncio.Event())
    asking = asyncio.create_task(site.ask())
    await settle(lambda: site.backend.running == 1)
    asking.cancel()
    await settle(site.is_free)
    await site.kept.close()


async def test_a_client_that_does_not_read_holds_the_backend_back_and_is_given_up() -> None:
    site = Site(ANSWER[0], *(Relevance(index % 2, 0.5) for index in range(100_000)), stall_s=0.05)
    await site.serve()
    stream = await site.client.open_stream(WORKER, RERANK_PROTOCOL)
    await stream.write(framed())
    await settle(lambda: site.backend.running == 1)
    async with asyncio.timeout(5):
        await site.meter.wait_idle()
    await settle(site.is_free)
    assert site.backend.given < 100_000
    stream.close()
