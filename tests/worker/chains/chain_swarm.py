"""Stages and a driver in one memory world, with a small model that is cut as a test says, and the same model whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from p2pnet.directory import Directory, validator
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.backends.chain import ChainBackend
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.chains.chains import ChainTimes
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.engine.runner import Runner
from p2pnet.worker.engine.speculation import Speculation
from p2pnet.worker.spans.loading import load_span
from p2pnet.worker.spans.running import SpanRunner, Stretch
from p2pnet.worker.speculation.speculating import Speculating
from p2pnet.worker.speculation.window import StepCost
from p2pnet.worker.stages.computing import Computes
from p2pnet.worker.stages.stage import Stage, StageModel
from tests.stories import peer

QUICK = ChainTimes(heal_s=5.0, retry_s=0.01, avoid_s=0.2, step_s=5.0)
CONTEXT = 256


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Tampered:
    """A stage's layers, with something that happens before a pass: `before` is given its number, from 1, in the thread
    that computes, and what it returns replaces what the layers give."""

    def __init__(self, runner: Computes, before: Callable[[int, torch.Tensor], torch.Tensor | None]) -> None:
        self._runner = runner
        self._before = before
        self.passes = 0

    def forward(self, row: torch.Tensor, stretches: Sequence[Stretch], first: int, last: int) -> torch.Tensor:
        self.passes += 1
        found = self._before(self.passes, row)
        return self._runner.forward(row, stretches, first, last) if found is None else found


@dataclass
class Site:
    """One stage of a story."""

    stage: Stage
    network: MemoryNetwork
    first: int
    last: int

    async def kill(self) -> None:
        """As a machine that loses its power."""
        await self.network.kill()
        await self.stage.stop()


class ChainSwarm:
    """A world, and the folder of its model."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.cache = cache
        self.world = MemoryWorld(validator(wall_ms))
        self.sites: dict[str, Site] = {}
        self._closing = AsyncExitStack()

    def model(self, first: int, last: int, kv_tokens: int) -> StageModel:
        part = load_span(self.folder, first, last, "cpu", "auto", HashCache(self.cache))
        return StageModel(
            SpanRunner(part), part.digest, first, last, part.layers, part.width, part.dtype, CONTEXT * 2, kv_tokens
        )

    async def stage(
        self,
        name: str,
        first: int,
        last: int,
        kv_tokens: int = 8 * CONTEXT,
        before: Callable[[int, torch.Tensor], torch.Tensor | None] = lambda number, row: None,
    ) -> Site:
        """A stage that serves and is announced. `before` is as in Tampered."""
        identity = peer(name)
        network = self.world.join(identity.peer_id)
        model = self.model(first, last, kv_tokens)
        model = replace(model, runner=Tampered(model.runner, before))
        stage = await Stage.start(network, identity, Directory(network, wall_ms), model, wall_ms)
        site = self.sites[name] = Site(stage, network, first, last)
        self._closing.push_async_callback(site.kill)
        return site

    async def driver(
        self,
        name: str = "driver",
        times: ChainTimes = QUICK,
        slots: int = 8,
        speculation: Speculation | None = None,
        draft: str | None = None,
    ) -> ChainBackend:
        """With `speculation` it guesses so, and not as drivers do. `draft` is a model that makes drafts; then the lines
        are taken for slow ones, whatever is measured."""
        kind = guessing(speculation) if speculation is not None else FarBackend if draft is not None else ChainBackend
        network = self.world.join(peer(name).peer_id)
        backend = await kind.from_spec(
            str(self.folder),
            network,
            Directory(network, wall_ms),
            now_ms=wall_ms,
            options=EngineOptions(slots=slots, context_tokens=CONTEXT),
            served_name="model",
            cache_dir=self.cache,
            times=times,
            rng=random.Random(1),
            draft=draft,
        )
        self._closing.push_async_callback(network.kill)
        self._closing.push_async_callback(backend.close)
        return backend

    async def whole(self) -> TransformersBackend:
        backend = await TransformersBackend.from_spec(
            str(self.folder),
            now_ms=wall_ms,
            options=EngineOptions(context_tokens=CONTEXT),
            served_name="model",
            cache_dir=self.cache,
        )
        self._closing.push_async_callback(backend.close)
        return backend

    async def close(self) -> None:
        await self._closing.aclose()


def guessing(speculation: Speculation) -> type[ChainBackend]:
    """Drivers that guess so."""

    class GuessingBackend(ChainBackend):
        def _speculation(self, runner: Runner) -> Speculation:
            return speculation

    return GuessingBackend


class FarBackend(ChainBackend):
    """A driver for which a pass takes a second, however many tokens it has."""

    def _speculation(self, runner: Runner) -> Speculation:
        return Speculating(lambda: StepCost(1.0, 0.0), self._drafter)


@asynccontextmanager
async def chain_swarm(folder: Path, cache: Path) -> AsyncIterator[ChainSwarm]:
    swarm = ChainSwarm(folder, cache)
    try:
        yield swarm
    finally:
        await swarm.close()


@dataclass(frozen=True)
class Answer:
    """What an answer comes to, whatever came together in one delta. Logprobs are compared where a test does so: what is
    computed beside it, and in which pieces, rounds them differently in one worker, too."""

    ids: tuple[int, ...]
    text: str
    logprobs: tuple[float | None, ...] = field(compare=False)
    reason: str
    digest: str | None


async def events_of(backend: Backend, request: GenerateRequest) -> list[BackendEvent]:
    async with aclosing(backend.generate(request)) as events:
        return [event async for event in events]


async def answer(backend: Backend, request: GenerateRequest) -> Answer:
    return as_answer(await events_of(backend, request))


async def answers(backend: Backend, requests: Sequence[GenerateRequest]) -> list[Answer]:
    return await asyncio.gather(*(answer(backend, request) for request in requests))


def as_answer(events: Sequence[BackendEvent]) -> Answer:
    deltas = [event for event in events if isinstance(event, TextDelta)]
    accepted, finished = events[0], events[-1]
    assert isinstance(accepted, Accepted) and isinstance(finished, Finished)
    return Answer(
        tuple(token_id for delta in deltas for token_id in delta.token_ids),
        "".join(delta.text for delta in deltas),
        tuple(each.logprob for delta in deltas for each in delta.logprobs),
        finished.reason,
        accepted.digest,
    )
