"""Stages whose layers add one each, in a memory world, and a driver that says what a test has it say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import torch

from p2pnet.directory import Directory, validator
from p2pnet.errors import P2PNetError
from p2pnet.network.interface import Stream
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.stage_messages import Hop, Piece, StageOpen, StageReady, StageRow, ToDriver
from p2pnet.wire.stage_frames import STAGE_PROTOCOL, StageFrame, encode_stage_frame, to_driver_decoder
from p2pnet.worker.spans.rows import to_body, to_states
from p2pnet.worker.spans.running import Stretch
from p2pnet.worker.stages.handler import StageTimes
from p2pnet.worker.stages.stage import Stage, StageModel
from tests.stories import DIGEST, ManualClock, peer

WIDTH = 4
LAYERS = 4
CONTEXT = 256


class AddOne:
    """Layers that add one each, and fail for negative numbers. Keeps how many tokens each pass had."""

    def __init__(self) -> None:
        self.passes: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def forward(self, row: torch.Tensor, stretches: Sequence[Stretch], first: int, last: int) -> torch.Tensor:
        self.before()
        self.passes.append(len(row))
        if bool((row < 0).any()):
            raise RuntimeError("negative")
        return row + (last - first)


class Driver:
    """One driver's stream to a stage, spoken by hand."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._decoder = to_driver_decoder()
        self._heard: list[StageFrame[ToDriver]] = []

    async def say(self, header: StageOpen | StageRow, body: bytes = b"") -> None:
        await self.stream.write(encode_stage_frame(header, body))

    async def hear(self) -> StageFrame[ToDriver] | None:
        """The next frame; None at the end."""
        while not self._heard:
            data = await self.stream.read()
            if not data:
                return None
            self._heard = self._decoder.feed(data)
        return self._heard.pop(0)

    async def told(self) -> ToDriver | None:
        frame = await self.hear()
        return None if frame is None else frame.header


class StageSwarm:
    """Stages by name: "a" has layers [0, 2), "b" has [2, 4)."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))
        self.runners: dict[str, AddOne] = {}
        self.stages: dict[str, Stage] = {}
        self.networks: dict[str, MemoryNetwork] = {}
        self.closing = AsyncExitStack()

    async def start(
        self,
        name: str,
        first: int,
        last: int,
        refusal: Callable[[], P2PNetError | None] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] | None = None,
        times: StageTimes | None = None,
    ) -> Stage:
        identity = peer(name)
        network = self.networks[name] = self.world.join(identity.peer_id)
        runner = self.runners[name] = AddOne()
        model = StageModel(runner, DIGEST, first, last, LAYERS, WIDTH, "float32", CONTEXT, 1024)
        stage = self.stages[name] = await Stage.start(
            *(network, identity, Directory(network, self.clock), model, self.clock),
            refusal=refusal,
            times=times,
            sleep=sleep or asleep,
        )
        self.closing.push_async_callback(network.kill)
        self.closing.push_async_callback(stage.stop)
        return stage

    async def stream(self, name: str, driver: str = "driver") -> Driver:
        if peer(driver).peer_id not in self.world.peers:
            self.closing.push_async_callback(self.world.join(peer(driver).peer_id).kill)
        network = self.world.peers[peer(driver).peer_id]
        return Driver(await network.open_stream(peer(name).peer_id, STAGE_PROTOCOL))

    async def open(self, name: str, first: int, last: int, driver: str = "driver", ticket: bytes = b"") -> Driver:
        opened = await self.stream(name, driver)
        await opened.say(StageOpen(DIGEST, first, last, ticket or ticket_of(name, driver)))
        ready = await opened.told()
        assert isinstance(ready, StageReady), ready
        return opened


async def asleep(seconds: float) -> None:
    """Until the end: nothing is announced again here."""
    await asyncio.Event().wait()


@asynccontextmanager
async def stage_swarm(*names: str) -> AsyncIterator[StageSwarm]:
    swarm = StageSwarm()
    try:
        for name in names:
            await swarm.start(name, *{"a": (0, 2), "b": (2, 4), "whole": (0, 4)}[name])
        yield swarm
    finally:
        await swarm.closing.aclose()


def ticket_of(name: str, driver: str = "driver") -> bytes:
    return f"{name}/{driver}".encode().ljust(16, b".")


def row(name: str, step: int, *pieces: Piece, to: Sequence[str] = (), driver: str = "driver") -> StageRow:
    route = tuple(Hop(peer(each).peer_id, ticket_of(each, driver)) for each in to)
    return StageRow(ticket_of(name, driver), step, WIDTH, pieces=pieces, route=route)


def numbers(*values: float) -> bytes:
    """A token for each: its hidden state is this number, again and again."""
    return to_body(torch.tensor(values, dtype=torch.float32)[:, None].repeat(1, WIDTH)) if values else b""


def read(body: bytes) -> list[float]:
    return [float(value) for value in to_states(body, WIDTH, "float32")[:, 0]]
