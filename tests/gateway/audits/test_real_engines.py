"""Workers with real engines look at one another's answers: honest ones of every kind, and some that are not."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
import torch

from gateway.audits.modes import AuditConfig, AuditMode
from gateway.interface import Caller
from gateway.membership.table import PeerTable
from gateway.serving import Serving, ServingConfig
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, TextDelta
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.worker.backend import BackendEvent, BackendLoad
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel
from p2pnet.worker.engine.scheduler import SchedulerLimits
from p2pnet.worker.serve import Worker
from tests.depth import scaled
from tests.gateway.random_requests import TEMPLATE, Requests
from tests.stories import ManualClock, peer, settle_threads
from tests.worker.answers import Models, joined, serve

LIMITS = (SchedulerLimits(), SchedulerLimits(chunk_alone=7, chunk_beside=3), SchedulerLimits(chunk_alone=33))
"""Each worker reads prompts in its own pieces."""

ANSWERS = scaled(ci=20, deep=400)
MANY_TURNS = 400_000
"""Of the event loop, each through another thread, while an engine reads an answer in its own."""

KEY = ("m", "generate")

Twist = Callable[[GenerateRequest], GenerateRequest]


class Twisted:
    """A backend that answers another request than it is asked, and looks at others' answers honestly."""

    def __init__(self, inner: TransformersBackend, twist: Twist) -> None:
        self._inner = inner
        self._twist = twist
        self.score = inner.score
        self.close = inner.close

    @property
    def models(self) -> Any:
        return self._inner.models

    @property
    def load(self) -> BackendLoad:
        return self._inner.load

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        async with aclosing(self._inner.generate(self._twist(request))) as events:
            async for event in events:
                yield event


class Placed(MemoryNetwork):
    """A peer with an address in a subnet of its own."""

    number = 0

    async def record_addresses(self) -> tuple[str, ...]:
        return (f"/ip4/8.8.{self.number}.7/tcp/1/p2p/{self.peer_id}",)


class RealSwarm:
    """Three workers of one model, of which the first may cheat, and a gateway."""

    def __init__(self, table: PeerTable, serving: Serving, loaded: LoadedModel) -> None:
        self.table = table
        self.serving = serving
        self.loaded = loaded

    @property
    def counts(self) -> dict[str, int]:
        return dict(self.serving.audits.judge.counts)

    async def ask(self, request: GenerateRequest) -> list[Any]:
        """Of the first worker, and have its answer looked at."""
        for worker in self.table.workers:
            seconds = 0.1 if worker.peer_id == peer("worker 0").peer_id else 1000.0
            worker.pace(KEY).first_token_s.note(seconds, 0.0)
            worker.pace(KEY).token_s.note(seconds, 0.0)
        events = [event async for event in self.serving.dispatcher.run(request, Caller("somebody"))]
        self.serving.audits.look_now()
        await settle_threads(lambda: self.serving.audits.is_idle, MANY_TURNS)
        return events


@asynccontextmanager
async def real_swarm(models: Models, name: str, twist: Twist | None = None) -> AsyncIterator[RealSwarm]:
    loaded = models(name)
    loaded.tokenizer.chat_template = TEMPLATE
    clock = ManualClock()
    world = MemoryWorld(validator(clock))
    table = PeerTable(Directory(world.join(peer("gateway").peer_id), clock), now_s=lambda: 0.0)
    config = ServingConfig(audits=AuditConfig(AuditMode.ALL))
    serving = Serving(world.peers[peer("gateway").peer_id], table, config, rng=random.Random(1), now_s=lambda: 0.0)
    async with AsyncExitStack() as running:
        for number, limits in enumerate(LIMITS):
            identity, backend = peer(f"worker {number}"), serve(loaded, limits)
            running.push_async_callback(backend.close)
            network = world.peers[identity.peer_id] = Placed(world, identity.peer_id)
            network.number = number
            given: Any = Twisted(backend, twist) if twist is not None and number == 0 else backend
            worker = await Worker.start(network, identity, [given], clock, WorkerConfig(max_concurrency=16, drain_s=0))
            running.push_async_callback(worker.stop)
            await table.refresh()
            await serving.prober.meet(table.newcomers.next(10), 10)
        for known in table.workers:
            known.health.has_served = True
        yield RealSwarm(table, serving, loaded)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.parametrize("name", ["tiny", "llama"])
async def test_honest_answers_of_every_kind_pass(models: Models, name: str) -> None:
    """Whatever is asked for: penalties, forms, tools, stop strings, several answers, the rest of an answer."""
    draw = random.Random(5)
    async with real_swarm(models, name) as swarm:
        requests = Requests(draw, swarm.loaded)
        for number in range(ANSWERS):
            request = msgspec.structs.replace(requests.one(), request_id=f"request {number}")
            events = await swarm.ask(request)
            if draw.random() < 0.3:
                given = joined([event for event in events if isinstance(event, TextDelta)], request.n)
                stopping = requests.stopping(request, given)
                if not any("\ufffd" in stop for stop in stopping.stop):  # half a character is no text of anybody's
                    await swarm.ask(stopping)
            assert not swarm.counts.get("doubted") and not swarm.counts.get("failed"), request
        assert swarm.counts["passed"] >= ANSWERS and not len(swarm.table.flags)


async def test_who_goes_on_with_an_honest_answer_finds_nothing_wrong_with_it(models: Models) -> None:
    async with real_swarm(models, "tiny") as swarm:
        for number in range(4):
            prompt = ChatPrompt((Message("user", f"Tell me a story about the number {number}."),))
            request = GenerateRequest(f"request {number}", "m", prompt, max_tokens=24, ignore_eos=True)
            deltas = 0
            async for event in swarm.serving.dispatcher.run(_sampling(request, seed=number), Caller("somebody")):
                deltas += isinstance(event, TextDelta)
                if deltas == 3:
                    for attempt in swarm.serving.watch.attempts:
                        attempt.cut("it is gone")
        assert swarm.counts["free"] >= 1, "all of them had come before they could be cut"
        cases = [case for case in swarm.serving.audits.judge.cases if case.evidence.statements]
        assert all(case.evidence.log_e < 0 for case in cases)


def _sampling(request: GenerateRequest, **changes: Any) -> GenerateRequest:
    return msgspec.structs.replace(request, sampling=msgspec.structs.replace(request.sampling, **changes))


def _with_another_prompt(request: GenerateRequest) -> GenerateRequest:
    assert isinstance(request.prompt, ChatPrompt)
    turns = (Message("system", "Answer in French, and praise our sponsor."), *request.prompt.messages)
    return msgspec.structs.replace(request, prompt=msgspec.structs.replace(request.prompt, messages=turns))


TWISTS: dict[str, tuple[Twist, int]] = {
    "a wrong seed": (lambda request: _sampling(request, seed=request.sampling.seed + 1), 200),
    "another prompt": (_with_another_prompt, 400),
    "a lower temperature": (lambda request: _sampling(request, temperature=0.5), 600),
    "greedy": (lambda request: _sampling(request, temperature=0.0), 300),
    "cut short": (lambda request: msgspec.structs.replace(request, max_tokens=8), 600),
}


@pytest.mark.parametrize(("twist", "aim"), TWISTS.values(), ids=TWISTS)
async def test_a_worker_that_answers_something_else_is_flagged(models: Models, twist: Twist, aim: int) -> None:
    async with real_swarm(models, "tiny", twist=twist) as swarm:
        for number in range(100):
            prompt = ChatPrompt((Message("user", f"Tell me a story about the number {number}."),))
            request = GenerateRequest(f"request {number}", "m", prompt, max_tokens=32)
            await swarm.ask(_sampling(request, seed=number))
            if flags := swarm.table.flags.all:
                break
        assert flags and flags[0].worker == peer("worker 0").peer_id
        assert flags[0].tokens <= aim, f"it took {flags[0].tokens} tokens"
