"""A gateway in one memory world with workers that break off by a schedule, and what is left of a request there."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gateway.dispatch.dispatcher import DispatchConfig
from gateway.interface import Caller, Routed, Waiting
from gateway.membership.table import PeerTable
from gateway.serving import Serving, ServingConfig
from p2pnet.config import ExchangeTimeouts, WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import P2PNetError
from p2pnet.messages import GenerateRequest
from p2pnet.network.memory import MemoryWorld
from p2pnet.worker.backend import Backend, EmbedBackend
from p2pnet.worker.serve import Worker
from tests.gateway.breaking import BreakingBackend, BreakingEmbedder, BreakingNetwork, Schedule
from tests.stories import ManualClock, peer

LIMIT_S = 60.0
"""For one request: one that is never served must fail."""

PAUSE_S = 9.0
"""Passes at each break: no worker is passed over for longer by the request that it has failed."""

FOR_EVER_S = 1e9
SLOTS = 16
CALLER = Caller("somebody")
PATIENT = ExchangeTimeouts(accept_s=LIMIT_S, silence_s=LIMIT_S)


class Swarm:
    """`wait_s` is how long a request waits for a worker."""

    def __init__(self, seed: int = 1, wait_s: float = FOR_EVER_S) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self._paused_s = 0.0
        self.schedule = Schedule(self._pause)
        network = self.world.join(peer("gateway").peer_id)
        self.table = PeerTable(Directory(network, self.clock), now_s=self._now_s)
        self.serving = Serving(
            network,
            self.table,
            ServingConfig(dispatch=DispatchConfig(wait_s=wait_s, timeouts=PATIENT)),
            rng=random.Random(seed),
            now_s=self._now_s,
        )
        self.backends: list[BreakingBackend | BreakingEmbedder] = []
        self._workers: list[Worker] = []
        self._running = AsyncExitStack()

    def _now_s(self) -> float:
        return time.monotonic() + self._paused_s

    def _pause(self) -> None:
        self._paused_s += PAUSE_S

    async def join(self, name: str, inner: Backend) -> BreakingBackend:
        """A worker that runs this, and has announced itself."""
        backend = BreakingBackend(inner, self.schedule)
        await self._start(name, [backend], [])
        self.backends.append(backend)
        return backend

    async def join_embedder(self, name: str, inner: EmbedBackend) -> BreakingEmbedder:
        """The same with one that embeds."""
        embedder = BreakingEmbedder(inner, self.schedule)
        await self._start(name, [], [embedder])
        self.backends.append(embedder)
        return embedder

    async def _start(self, name: str, backends: Sequence[Backend], embedders: Sequence[EmbedBackend]) -> None:
        identity = peer(name)
        network = BreakingNetwork(self.world, self.world.join(identity.peer_id))
        config = WorkerConfig(max_concurrency=SLOTS, drain_s=0)
        worker = await Worker.start(network, identity, backends, self.clock, config, embedders=embedders)
        self._running.push_async_callback(network.close)
        self._running.push_async_callback(worker.stop)
        self._workers.append(worker)
        await self.table.refresh()
        await self.serving.prober.meet(self.table.newcomers.next(100), 100)
        for known in self.table.workers:
            known.health.has_served = True  # which leaves the choice open to the story

    def prefer(self, name: str, model: str = "m", task: str = "generate") -> None:
        """Have one worker tried first: the gateway believes that all others are slow."""
        for worker in self.table.workers:
            seconds = 0.1 if worker.peer_id == peer(name).peer_id else 1000.0
            pace = worker.pace((model, task))
            pace.first_token_s.note(seconds, self._now_s())
            pace.token_s.note(seconds, self._now_s())

    async def run(self, request: GenerateRequest | EmbedRequest) -> list[Any]:
        """What its client is given, from Accepted to Finished."""
        events, error = await self.try_to_run(request)
        if error is not None:
            raise error
        return events

    async def try_to_run(self, request: GenerateRequest | EmbedRequest) -> tuple[list[Any], P2PNetError | None]:
        """The same, and the error it ended with."""
        events: list[Any] = []
        dispatcher = self.serving.dispatcher
        is_embedding = isinstance(request, EmbedRequest)
        given: Any = dispatcher.embed(request, CALLER) if is_embedding else dispatcher.run(request, CALLER)
        try:
            async with asyncio.timeout(LIMIT_S):
                async for event in given:
                    if not isinstance(event, Waiting | Routed):
                        events.append(event)
        except P2PNetError as error:
            return events, error
        return events, None

    def is_idle(self) -> bool:
        """Whether nothing of any request is left anywhere."""
        loads = [worker.status.load for worker in self._workers]
        return (
            not any(backend.running for backend in self.backends)
            and not any(load.running or load.queued for load in loads)
            and all(load.kv_free_tokens == load.kv_total_tokens for load in loads)
            and not any(worker.in_flight for worker in self.table.workers)
            and not self.serving.admission.waiting_by_model()
            and not self.serving.watch.watched
        )

    async def close(self) -> None:
        await self._running.aclose()


@asynccontextmanager
async def swarm(*backends: Backend, seed: int = 1, wait_s: float = FOR_EVER_S) -> AsyncIterator[Swarm]:
    """Workers called "0", "1" and so on run these."""
    given = Swarm(seed, wait_s)
    try:
        for index, backend in enumerate(backends):
            await given.join(str(index), backend)
        yield given
    finally:
        await given.close()
