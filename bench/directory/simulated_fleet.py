"""Workers and gateways of the simulation: the real announcer, and the real table and prober."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.directory.simulated_network import SimulatedPeer, SimulatedWorld
from gateway.membership.probing import Prober
from gateway.membership.table import PeerTable
from gateway.membership.watching import Watching
from gateway.peers.worker import Worker
from p2pnet.directory import Directory
from p2pnet.messages import Load
from p2pnet.records import ModelCard
from p2pnet.status_messages import Status
from p2pnet.wire.exchange import STATUS_PROTOCOL, WATCH_PROTOCOL
from p2pnet.worker.announcing.announcer import Announcer
from p2pnet.worker.catalogue import Catalogue
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.status_handler import StatusHandler
from p2pnet.worker.streams.watch_handler import WatchHandler

MODELS_PER_WORKER = 2
MODELS_PER_GATEWAY = 8
"""What the clients of one gateway ask for: most of them for what most workers run."""
REQUESTS_PER_S = 2.0
"""Of one gateway, each to a worker that its own routing could choose."""
REQUEST_S = 1.5


def model_names(peers: int) -> list[str]:
    """The more workers, the more models; the first run on most."""
    return [f"org{number}/model-{number}-8b-instruct" for number in range(max(4, peers // 50))]


def drawn(models: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """By Zipf's law: the second is half as popular as the first."""
    weights = [1 / rank for rank in range(1, len(models) + 1)]
    found: dict[str, None] = {}
    while len(found) < min(count, len(models)):
        found[rng.choices(models, weights)[0]] = None
    return list(found)


class SimulatedWorker:
    """Announces itself and answers probes; it computes nothing."""

    def __init__(self, world: SimulatedWorld, models: Sequence[str]) -> None:
        self.peer: SimulatedPeer = world.join()
        cards = tuple(ModelCard(model, "sha256:" + "ab" * 32, 8192, features=("chat", "text")) for model in models)
        catalogue = Catalogue((), ())
        self.meter = LoadMeter(8, catalogue, world.now_ms, now_s=world.now_s)
        self.announcer = Announcer(self.peer, self.peer.identity, lambda: cards, self.meter, world.now_ms)
        self._world = world

    async def start(self) -> None:
        self._world.introduce(self.peer)
        guard = Guard(now_s=self._world.now_s)
        await self.peer.handle(STATUS_PROTOCOL, StatusHandler(self._status, guard))
        await self.peer.handle(WATCH_PROTOCOL, WatchHandler(self._status, lambda: self.announcer.records, guard))
        await self.announcer.start()

    async def leave(self) -> None:
        """With a goodbye."""
        await self.announcer.stop()
        await self.peer.vanish()

    async def vanish(self) -> None:
        await self.peer.vanish()
        await self.announcer._background.stop()

    def _status(self) -> Status:
        return Status(is_serving=True, load=Load(slots=8), record_sequence=self.announcer.stored_sequence)


@dataclass(eq=False)
class SimulatedGateway:
    """Reads, probes and chooses. What it chooses is only counted as served."""

    world: SimulatedWorld
    models: Sequence[str]
    waits_for: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.peer = self.world.join(is_client=True)
        self.table = PeerTable(
            Directory(self.peer, self.world.now_ms, self.world.rng),
            now_s=self.world.now_s,
            unix_s=lambda: self.world.now_ms() / 1000,
            rng=self.world.rng,
        )
        self.prober = Prober(self.peer, self.table, self.world.now_s)
        self.table.meet = self.prober.meet
        self.watching = Watching(self.peer, self.table, self.prober, self.world.now_s)
        self.table.waited_for = lambda: self.waits_for

    def start(self) -> None:
        self.world.introduce(self.peer)
        work = (
            self.table.keep_fresh(),
            self.table.keep_looking_up(),
            self.prober.run(),
            self.watching.run(),
            self._ask(),
        )
        self.tasks = [asyncio.create_task(each) for each in work]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def runs(self, model: str) -> bool:
        """Whether somebody may be sent a request for it."""
        return bool(self.table.roster.of((model, "generate")))

    def uses(self, peer_id: str) -> bool:
        return any(worker.peer_id == peer_id for worker in self.table.workers)

    @property
    def in_use(self) -> list[Worker]:
        """Those that have served."""
        return [worker for worker in self.table.workers if worker.is_tried]

    async def _ask(self) -> None:
        """Requests, one after the other, of all the models."""
        while True:
            await asyncio.sleep(self.world.rng.expovariate(REQUESTS_PER_S))
            model = self.world.rng.choice(self.models)
            self.table.want(model)
            with contextlib.suppress(IndexError):
                worker = self.world.rng.choice(self.table.roster.of((model, "generate")))
                asyncio.get_running_loop().call_later(REQUEST_S, self._served, worker, model)
                worker.reserve((model, "generate"), self.world.now_s())

    def _served(self, worker: Worker, model: str) -> None:
        worker.release((model, "generate"))
        if worker.peer_id in self.world.peers:
            worker.note_served((model, "generate"))
            worker.heard_s = self.world.now_s()
