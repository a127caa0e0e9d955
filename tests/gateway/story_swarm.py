"""Real workers, impostors and one gateway in one memory world, whose time passes when a test says so."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from gateway.dispatch.dispatcher import DispatchConfig
from gateway.interface import Caller, Receipts, Routed, Waiting
from gateway.membership.table import PeerTable
from gateway.observability.reports import RequestReport
from gateway.peers.health import State
from gateway.peers.worker import Worker as Known
from gateway.receipts.witness import Witnesses
from gateway.serving import Serving, ServingConfig
from p2pnet.config import ExchangeTimeouts, WorkerConfig
from p2pnet.directory import Directory, entries_for, validator
from p2pnet.errors import P2PNetError
from p2pnet.messages import Accepted, Event, Failed, Finished, GenerateRequest, TextDelta, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.receipts.document import ReceiptDocument
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import open_statement
from p2pnet.records import seal
from p2pnet.status_messages import Status
from p2pnet.wire.codec import MAX_REQUEST_FRAME_BYTES, MAX_STATUS_FRAME_BYTES, encode_frame, request_decoder
from p2pnet.wire.exchange import GENERATE_PROTOCOL, STATUS_PROTOCOL
from p2pnet.worker.backends.synthetic.echo import ECHO_DIGEST, EchoBackend, EchoOptions
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, ask, capability, card, peer

KEY = ("echo", "generate")
PROMPT = "one two three"
ECHO = EchoOptions()
PATIENT = ExchangeTimeouts(accept_s=5, silence_s=5)
CALLER = Caller("somebody")


class Site:
    """One worker of a story."""

    def __init__(self, name: str, network: MemoryNetwork, hold_at: int | None, options: EchoOptions) -> None:
        self.identity = peer(name)
        self.network = network
        self.gate = asyncio.Event()
        self.begun: list[int] = []
        self.hold_at = hold_at
        self.backend = EchoBackend(options, gate=self._before_token)
        self.requests = 0

    @property
    def peer_id(self) -> str:
        return self.identity.peer_id

    async def _before_token(self, index: int) -> None:
        if index == 0:
            self.requests += 1
        self.begun.append(index)
        if self.hold_at is not None and index >= self.hold_at:
            await self.gate.wait()


class Swarm:
    """Workers that serve the echo model, and one gateway that has joined them."""

    def __init__(self, seed: int = 1) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.now_s = 0.0
        self.network = self.world.join(peer("gateway").peer_id)
        self.peers = PeerTable(Directory(self.network, self.clock), now_s=lambda: self.now_s)
        self.reports: list[RequestReport] = []
        self.receipts: list[ReceiptDocument] = []
        self.signed: list[Acknowledgement] = []
        """What the gateway has signed, as its workers have taken it."""
        self.kept = KeptStreams(say_s=0.0)
        self.serve(seed=seed)
        self.sites: list[Site] = []
        self._running = AsyncExitStack()

    def serve(self, wait_s: float = 0.0, timeouts: ExchangeTimeouts = PATIENT, seed: int = 1) -> None:
        """Have the gateway let requests wait for so long, and workers be silent for so long."""
        self.serving = Serving(
            self.network,
            self.peers,
            ServingConfig(dispatch=DispatchConfig(wait_s, timeouts)),
            self.reports.append,
            rng=random.Random(seed),
            now_s=lambda: self.now_s,
            witnesses=Witnesses(peer("gateway").peer_id, peer("gateway"), self.clock),
            kept=self.kept,
        )

    def _keep(self, acknowledgement: Acknowledgement, sealed: bytes) -> None:
        assert open_statement(sealed, Acknowledgement) == acknowledgement
        self.signed.append(acknowledgement)

    async def worker(self, name: str, slots: int = 8, hold_at: int | None = None, options: EchoOptions = ECHO) -> Site:
        """A worker that has announced itself. With `hold_at` it waits before that token until its gate is set."""
        site = Site(name, self.world.join(peer(name).peer_id), hold_at, options)
        config = WorkerConfig(max_concurrency=slots, drain_s=0)
        worker = await Worker.start(site.network, site.identity, [site.backend], self.clock, config, keep=self._keep)
        self._running.push_async_callback(site.network.kill)
        self._running.push_async_callback(worker.stop)
        self.sites.append(site)
        await self.refresh()
        return site

    async def refresh(self) -> None:
        """Read the directory and meet who is new. That all have served before leaves the choice open to the story."""
        await self.peers.refresh()
        newcomers = self.peers.newcomers.next(100)
        await self.serving.prober.meet(newcomers, len(newcomers))
        for worker in self.peers.workers:
            worker.health.has_served = True

    async def impostor(
        self,
        name: str,
        handler: StreamHandler,
        *features: str,
        digest: str = ECHO_DIGEST,
        sampler: str = "",
        resumes: bool = True,
        models: Sequence[str] = ("echo",),
    ) -> str:
        """A peer that announces the models like any worker, with further features, and answers as `handler` does.
        Returns its id."""
        identity = peer(name)
        network = self.world.join(identity.peer_id)
        self._running.push_async_callback(network.kill)
        await network.handle(GENERATE_PROTOCOL, handler)
        await network.handle(STATUS_PROTOCOL, is_there)
        abilities = ("chat", "text", *["resume"] * resumes, *features)
        cards = tuple(card(name, features=abilities, digest=digest, sampler=sampler) for name in models)
        record = capability(identity, models=cards)
        await network.store(entries_for(record, seal(record, identity)))
        await self.refresh()
        return identity.peer_id

    async def run(
        self, request: GenerateRequest | None = None, seen: list[Event] | None = None
    ) -> tuple[list[Event], P2PNetError | None]:
        """One request: what came out, and the error it ended with. `seen` shows the former while it runs."""
        events: list[Event] = [] if seen is None else seen
        receipts = Receipts(self.receipts.append)
        try:
            caller = replace(CALLER, receipts=receipts)
            async for event in self.serving.dispatcher.run(request or ask(text=PROMPT), caller):
                if not isinstance(event, Waiting | Routed):
                    events.append(event)
        except P2PNetError as error:
            return events, error
        receipts.finish()
        return events, None

    def prefer(self, peer_id: str) -> None:
        """Have one of two workers tried first: the gateway believes all others to be busier."""
        for worker in self.peers.workers:
            pace = worker.pace(("echo", "generate"))
            pace.first_token_s.note(0.1 if worker.peer_id == peer_id else 1000.0, self.now_s)
            pace.token_s.note(0.1 if worker.peer_id == peer_id else 1000.0, self.now_s)

    def known(self, peer_id: str) -> Known:
        return next(worker for worker in (*self.peers.workers, *self.peers.lost) if worker.peer_id == peer_id)

    def cooling(self) -> set[str]:
        return {worker.peer_id for worker in self.peers.workers if self._is_in_trouble(worker)}

    def _is_in_trouble(self, worker: Known) -> bool:
        return worker.health_of(KEY).state(self.now_s) is not State.HEALTHY

    def in_flight(self) -> list[int]:
        return [worker.in_flight for worker in self.peers.workers]

    async def close(self) -> None:
        for site in self.sites:
            site.gate.set()
        await self._running.aclose()


@asynccontextmanager
async def swarm() -> AsyncIterator[Swarm]:
    given = Swarm()
    try:
        yield given
    finally:
        await given.close()


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def is_complete(events: list[Event]) -> bool:
    """One Accepted first, one Finished last, deltas between them, and all of the echo."""
    shape = [type(event) for event in events]
    return (
        shape == [Accepted, *[TextDelta] * (len(shape) - 2), Finished] and len(shape) >= 2 and text_of(events) == PROMPT
    )


def answers(*events: Event, then: Callable[[], Awaitable[object]] | None = None) -> StreamHandler:
    """A worker that answers every request with these events in one write, and goes."""

    async def handle(stream: Stream) -> None:
        decoder = request_decoder()
        while not decoder.feed(await stream.read()):
            pass
        await stream.write(b"".join(encode_frame(event, 1 << 20) for event in events))
        if then is not None:
            await then()

    return handle


def counted(handler: StreamHandler) -> tuple[StreamHandler, list[int]]:
    """The same, and the times it was asked."""
    times: list[int] = []

    async def handle(stream: Stream) -> None:
        times.append(len(times))
        await handler(stream)

    return handle, times


async def is_there(stream: Stream) -> None:
    """Answers a probe."""
    await stream.read()
    await stream.write(encode_frame(Status(True), MAX_STATUS_FRAME_BYTES))


def refuses(code: str) -> StreamHandler:
    async def handle(stream: Stream) -> None:
        await stream.read()
        await stream.write(encode_frame(Failed(code), MAX_REQUEST_FRAME_BYTES))

    return handle


ACCEPTED, DELTA, FINISHED = Accepted(3), TextDelta("one", (0,)), Finished("stop", Usage(3, 3))
