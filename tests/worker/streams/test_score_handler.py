"""One inbound score stream: margins, refusals, clients that go away, and slots that are not those of answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest

from p2pnet import client
from p2pnet.config import GuardConfig
from p2pnet.directory import validator
from p2pnet.errors import Busy, Draining, InvalidRequest, ModelNotFound, P2PNetError, PeerUnreachable, WorkerFailed
from p2pnet.messages import Accepted, Finished, Usage
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.score_messages import Scored, ScoreEvent, ScoreRequest
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, encode_frame, score_event_decoder
from p2pnet.wire.exchange import SCORE_PROTOCOL
from p2pnet.worker.backend import ScoreBackendEvent
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.score_handler import ScoreHandler
from tests.stories import DIGEST, ManualClock, ask, card, peer, settle
from tests.worker.scripted import Scripted

WORKER, CLIENT = peer("worker").peer_id, peer("client").peer_id

REQUEST = ScoreRequest(ask(digest=DIGEST, sampler="gumbel-1"), (1, 2, 3), "stop")
ANSWER = (Accepted(3), Scored.of((0.0, 0.25)), Scored.of((0.5,), 0.0), Finished("stop", Usage(3, 0)))

Step = ScoreBackendEvent | BaseException | asyncio.Event


class ScriptedScores(Scripted):
    """A backend that plays a script of events, errors and gates to whoever wants a score."""

    def __init__(self, *script: Step) -> None:
        super().__init__(models=(card(REQUEST.model, features=("text", "score")),))
        self.script = script
        self.scoring = 0

    async def score(self, asked: ScoreRequest) -> AsyncGenerator[ScoreBackendEvent, None]:
        self.scoring += 1
        try:
            for step in self.script:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, BaseException):
                    raise step
                else:
                    yield step
        finally:
            self.scoring -= 1


class Site:
    """A worker that scores, and a client on the memory network."""

    def __init__(self, *script: Step, slots: int = 2, guard: GuardConfig | None = None) -> None:
        self.backend = ScriptedScores(*script)
        catalogue = Catalogue([self.backend])
        clock = ManualClock()
        self.meter = LoadMeter(slots, catalogue, clock, lambda: clock.now_ms / 1000)
        self.refusal: P2PNetError | None = None
        guarded = Guard(guard or GuardConfig(), lambda: clock.now_ms / 1000)
        self.handler = ScoreHandler(catalogue.find_scorer, self.meter, None, lambda: self.refusal, guarded)
        world = MemoryWorld(validator(clock))
        self._worker = world.join(WORKER)
        self.client: MemoryNetwork = world.join(CLIENT)

    async def serve(self) -> Site:
        await self._worker.handle(SCORE_PROTOCOL, self.handler)
        return self

    async def score(self, request: ScoreRequest = REQUEST) -> list[ScoreEvent]:
        return [event async for event in client.score(self.client, WORKER, request)]


async def test_margins_come_and_the_load_counts_none_of_it() -> None:
    site = await Site(*ANSWER).serve()
    events = await site.score()
    assert events[1:-1] == list(ANSWER[1:-1])
    assert isinstance(events[0], Accepted) and isinstance(events[-1], Finished)
    assert (events[0].load.running, events[0].load.queued) == (0, 0), "no answer waits for it"
    assert events[0].load.sampled_ms > 0


async def test_the_bytes_are_those_of_the_protocol() -> None:
    site = await Site(*ANSWER).serve()
    stream = await site.client.open_stream(WORKER, SCORE_PROTOCOL)
    for byte in encode_frame(REQUEST, MAX_REQUEST_FRAME_BYTES):
        await stream.write(bytes([byte]))
    decoder = score_event_decoder()
    events: list[ScoreEvent] = []
    while len(events) < len(ANSWER):
        events += decoder.feed(await stream.read())
    assert events[1:3] == list(ANSWER[1:3])


async def test_scores_have_slots_of_their_own_and_no_more_of_them() -> None:
    gate = asyncio.Event()
    site = await Site(ANSWER[0], gate, *ANSWER[1:], slots=2).serve()
    with site.meter.slot(REQUEST.model), site.meter.slot(REQUEST.model):
        under_way = [asyncio.ensure_future(site.score()) for _ in range(2)]
        await settle(lambda: site.backend.scoring == 2)
        with pytest.raises(Busy):
            await site.score()
        gate.set()
        for answer in await asyncio.gather(*under_way):
            assert answer[1:-1] == list(ANSWER[1:-1])


async def test_they_count_against_what_one_gateway_may_take() -> None:
    gate = asyncio.Event()
    site = await Site(ANSWER[0], gate, *ANSWER[1:], guard=GuardConfig(max_concurrency_per_gateway=1)).serve()
    first = asyncio.ensure_future(site.score())
    await settle(lambda: site.backend.scoring == 1)
    with pytest.raises(Busy, match="at the same time"):
        await site.score()
    gate.set()
    await first
    site = await Site(*ANSWER, guard=GuardConfig(max_requests_per_minute=1)).serve()
    await site.score()
    with pytest.raises(Busy, match="a minute"):
        await site.score()


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ((InvalidRequest("There is nothing to score.", "token_ids"),), InvalidRequest, "nothing to score"),
        ((ANSWER[0], ANSWER[1], WorkerFailed("the model failed")), WorkerFailed, "the model failed"),
        ((ANSWER[0], ValueError("a secret")), WorkerFailed, "the worker failed"),
    ],
)
async def test_what_goes_wrong_is_said(script: tuple[Step, ...], error: type[P2PNetError], message: str) -> None:
    site = await Site(*script).serve()
    with pytest.raises(error, match=message):
        await site.score()


async def test_a_model_that_nobody_scores_a_worker_that_stops_and_one_that_is_paused() -> None:
    site = await Site(*ANSWER).serve()
    with pytest.raises(ModelNotFound, match="does not score"):
        await site.score(ScoreRequest(msgspec.structs.replace(REQUEST.request, model="other"), (1,)))
    site.refusal = Draining("its owner has paused it")
    with pytest.raises(Draining, match="paused"):
        await site.score()
    site.refusal = None
    await site.handler.drain(1)
    with pytest.raises(Draining, match="stopping"):
        await site.score()


async def test_a_client_that_goes_away_ends_the_work() -> None:
    site = await Site(ANSWER[0], asyncio.Event()).serve()
    scoring = client.score(site.client, WORKER, REQUEST)
    assert isinstance(await anext(scoring), Accepted)
    assert site.backend.scoring == 1
    await scoring.aclose()
    await settle(lambda: site.backend.scoring == 0)


async def test_a_backend_that_cannot_score_is_none_that_is_found() -> None:
    plain = Scripted()
    (first, *_) = plain.models
    assert Catalogue([plain]).find(first.id) is plain
    assert Catalogue([plain]).find_scorer(first.id) is None
    network = MemoryWorld(validator(ManualClock())).join(CLIENT)
    with pytest.raises(PeerUnreachable):
        _ = [event async for event in client.score(network, WORKER, REQUEST)]
