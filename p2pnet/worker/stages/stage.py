"""Puts a stage together, on a peer that has joined: layers, their memory, streams, and what is announced."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

from p2pnet.config import DirectoryConfig
from p2pnet.directory import Directory
from p2pnet.errors import P2PNetError
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.records import StageRecord
from p2pnet.stage_messages import NOT_HERE, StageDtype, StageRefusal
from p2pnet.wire.stage_frames import STAGE_PROTOCOL
from p2pnet.worker.engine.kv_store import KvStore
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.stages.announcing import StageAnnouncer, StageLoad, blank_record
from p2pnet.worker.stages.computing import Computes, StageComputer
from p2pnet.worker.stages.handler import Serves, StageHandler, StageTimes
from p2pnet.worker.stages.links import Links
from p2pnet.worker.stages.shape import Shape
from p2pnet.worker.stages.shelf import Shelf

OWNER_S = 1.0
"""How often it is looked at whether the owner wants the machine."""


@dataclass(frozen=True, eq=False)
class StageModel:
    """Layers [first, last) of `layers`, ready to run, with memory for `kv_tokens` tokens."""

    runner: Computes
    digest: str
    first: int
    last: int
    layers: int
    width: int
    dtype: str
    context_length: int
    kv_tokens: int
    step_ms: float = 0.0
    """How long a pass with one token takes, as far as it was measured before any driver comes."""


class Stage:
    """A stage that serves. Make one with `start`."""

    def __init__(
        self,
        handler: StageHandler,
        announcer: StageAnnouncer,
        announced: tuple[StageRecord, Callable[[], StageLoad]],
        refusal: Callable[[], P2PNetError | None],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._handler = handler
        self._announcer = announcer
        self._announced = announced
        self._refusal = refusal
        self._sleep = sleep
        self._background = Background(sleep)

    @classmethod
    async def start(
        cls,
        network: Network,
        identity: Identity,
        directory: Directory,
        model: StageModel,
        now_ms: Clock,
        turns: Turns | None = None,
        config: DirectoryConfig | None = None,
        check: Callable[[str], None] = lambda peer_id: None,
        refusal: Callable[[], P2PNetError | None] = lambda: None,
        times: StageTimes | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        announcer: StageAnnouncer | None = None,
    ) -> Stage:
        """Serve the layers, then announce them. `check` raises P2PNetError for a driver that is not served, `refusal`
        says why no driver is taken now, if so. With an `announcer` of its own, it is that which announces them."""
        shelf = Shelf(KvStore(model.kv_tokens), model.context_length)
        shape = Shape(model.width, cast(StageDtype, model.dtype))
        computer = StageComputer(model.runner, shelf, shape, turns or Turns(), step_ms=model.step_ms)
        links = Links(network, _Neighbours(directory, model.digest).addresses)

        def let_in(peer_id: str) -> None:
            if (reason := refusal()) is not None:
                raise reason
            check(peer_id)

        serves = Serves(model.digest, model.first, model.last, model.layers)
        handler = StageHandler(serves, shelf, computer, links, let_in, times)
        blank = blank_record(identity, model.digest, model.first, model.last, model.layers, now_ms())
        announced = (blank, lambda: StageLoad(shelf.free_tokens, computer.step_ms))
        announcer = announcer or StageAnnouncer(network, identity, now_ms, config, sleep)
        await network.handle(STAGE_PROTOCOL, handler)
        stage = cls(handler, announcer, announced, refusal, sleep)
        await stage._start()
        return stage

    @property
    def drivers(self) -> int:
        """How many drivers have sequences here, or may."""
        return self._handler.drivers

    @property
    def span(self) -> tuple[int, int]:
        """Its layers [first, last)."""
        blank, _ = self._announced
        return blank.first, blank.last

    @property
    def load(self) -> StageLoad:
        _, load = self._announced
        return load()

    async def announce(self) -> None:
        """Announce it now, and from now on, whatever was announced before. A paused one says that it is offline."""
        self._announcer.speak_for(*self._announced)
        await self._announcer.start(self._refusal() is not None)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Withdraw, let drivers leave, and end."""
        await self._announcer.stop()
        await self.close(drain_s)

    async def close(self, drain_s: float = 0.0) -> None:
        """Let drivers leave, and end. What is announced is another's matter."""
        await self._background.stop()
        await self._handler.drain(drain_s)
        await self._handler.close()

    async def _start(self) -> None:
        is_paused = self._refusal() is not None
        await self.announce()
        self._background.keep("following the owner", partial(self._follow_owner, is_paused))

    async def _follow_owner(self, is_paused: bool) -> None:
        """A paused stage is not announced, and its drivers are told to leave."""
        while True:
            await self._sleep(OWNER_S)
            refusal = self._refusal()
            if is_paused != (refusal is not None):
                is_paused = refusal is not None
                await self._announcer.set_paused(is_paused)
                if refusal is not None:
                    await self._handler.send_away(refusal.message)


class _Neighbours:
    """Where the other stages of the model are: nobody else is ever dialled for a driver."""

    def __init__(self, directory: Directory, digest: str) -> None:
        self._directory = directory
        self._digest = digest

    async def addresses(self, peer_id: str) -> Sequence[str]:
        for record in await self._directory.stages_of(self._digest):
            if record.peer_id == peer_id:
                return record.addresses
        raise StageRefusal(NOT_HERE, "the next stage announces no layers of this model")
