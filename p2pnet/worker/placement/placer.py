"""Keeps one stage on a machine, where the network lacks it most: takes layers, looks again now and then, and moves.

Knows nothing of tensors, nor of how layers are loaded: `open_stage` does that.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2pnet.directory import Directory
from p2pnet.errors import P2PNetError
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock
from p2pnet.worker.placement.choosing import Post, Span, believed, best_span, better_span, seen_by
from p2pnet.worker.stages.announcing import StageAnnouncer, blank_record
from p2pnet.worker.stages.stage import Stage

logger = logging.getLogger(__name__)

LOOK_S = 20.0
"""Between two looks at where layers are lacking, on average. Each is half as long to one and a half times, by lot: so
two stages that see the same do not move at the same time."""

CLAIM_S = 3.0
"""From saying which layers one is about to load to looking whether others said so first: the directory takes two or
three round trips to be written, and as many to be read."""

MAX_CLAIMS = 5
"""Others may be first so often. Then the layers are taken all the same: better to have them twice than to wait."""

OpenStage = Callable[[Span, StageAnnouncer], Awaitable[Stage]]
"""Loads layers, and serves and announces them. Raises P2PNetError."""


@dataclass(frozen=True)
class Allotment:
    """What a machine may take: at most `length` of the `layers` of a model. A stage counts as crowded that has no room
    for `conversation_tokens`."""

    digest: str
    layers: int
    length: int
    conversation_tokens: int = 0


class Placer:
    """The stage of one machine. `drain_s` is how long drivers may take to leave it when it moves."""

    def __init__(
        self,
        identity: Identity,
        directory: Directory,
        allotment: Allotment,
        open_stage: OpenStage,
        announcer: StageAnnouncer,
        now_ms: Clock,
        drain_s: float = 0.0,
        refusal: Callable[[], P2PNetError | None] = lambda: None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self._identity = identity
        self._directory = directory
        self._allotment = allotment
        self._open_stage = open_stage
        self._announcer = announcer
        self._now_ms = now_ms
        self._drain_s = drain_s
        self._refusal = refusal
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._stage: Stage | None = None
        self._background = Background(sleep)

    @property
    def stage(self) -> Stage | None:
        """The stage that serves now; None while layers are being loaded."""
        return self._stage

    async def start(self) -> None:
        """Take layers and serve them, and look again from time to time. Raises P2PNetError where that cannot be."""
        try:
            await self._take()
        except BaseException:
            await self._announcer.stop()
            raise
        self._background.keep("looking for layers that are lacking", self._keep_looking)

    async def stop(self, drain_s: float = 0.0) -> None:
        """Withdraw, let drivers leave, and end."""
        await self._background.stop()
        await self._announcer.stop()
        if self._stage is not None:
            await self._stage.close(drain_s)

    async def look(self) -> None:
        """Look where layers are lacking, and move there if that helps."""
        stage = self._stage
        if stage is None:
            await self._take()
            return
        if self._refusal() is not None:
            return
        own, before = self._own(stage), await self._others()
        span = better_span(own, before, self._allotment.layers)
        if span is None:
            return
        claim = await self._claim(span, self._now_ms())
        if better_span(own, seen_by(claim, await self._others(), before), self._allotment.layers) != span:
            logger.info("another stage takes layers %d to %d: this one stays", *span)
            await stage.announce()
            return
        await self._move(stage, span)

    async def _keep_looking(self) -> None:
        while True:
            await self._sleep(LOOK_S * self._rng.uniform(0.5, 1.5))
            await self.look()

    async def _take(self) -> None:
        """Take the layers that are lacking most, of those that nobody else has just taken."""
        since_ms, length, layers = self._now_ms(), self._allotment.length, self._allotment.layers
        span = best_span(await self._others(), layers, length)
        for _ in range(MAX_CLAIMS):
            claim = await self._claim(span, since_ms)
            again = best_span(seen_by(claim, await self._others()), layers, length)
            if again == span:
                break
            span = again
        await self._open(span)

    async def _move(self, stage: Stage, span: Span) -> None:
        logger.info("layers %d to %d are lacking more than layers %d to %d: this stage moves", *span, *stage.span)
        former, self._stage = stage.span, None
        await stage.close(self._drain_s)
        try:
            await self._open(span)
        except P2PNetError as error:
            logger.warning("layers %d to %d cannot be served, and this stage goes back: %s", *span, error.message)
            await self._open(former)

    async def _open(self, span: Span) -> None:
        self._stage = await self._open_stage(span, self._announcer)

    async def _claim(self, span: Span, since_ms: int) -> Post:
        """Say that these layers are about to be loaded, and wait until others have had the time to say so, too."""
        model = self._allotment
        self._announcer.speak_for(
            blank_record(self._identity, model.digest, *span, model.layers, since_ms, is_ready=False)
        )
        await self._announcer.start()
        await self._sleep(CLAIM_S)
        return Post(self._identity.peer_id, *span, is_ready=False, since_ms=since_ms)

    async def _others(self) -> list[Post]:
        records = await self._directory.placed(self._allotment.digest)
        posts = (
            Post(
                *(record.peer_id, record.first, record.last, record.step_ms),
                has_room=self._has_room(record.kv_free_tokens),
                is_ready=record.is_ready,
                since_ms=record.since_ms,
            )
            for record in records
            if record.layers == self._allotment.layers and record.peer_id != self._identity.peer_id
        )
        return believed(posts, self._now_ms())

    def _own(self, stage: Stage) -> Post:
        load = stage.load
        return Post(self._identity.peer_id, *stage.span, load.step_ms, self._has_room(load.kv_free_tokens))

    def _has_room(self, kv_free_tokens: int) -> bool:
        return kv_free_tokens >= self._allotment.conversation_tokens
