"""Passes on once more what the layers gave, for one driver: to a stage that has come later, or has forgotten it.

Beside the driver's rows, which wait for none of it. Knows nothing of how it is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from p2pnet.stage_messages import (
    BAD_ROW,
    BUSY,
    MAX_STAGE_ROW_TOKENS,
    STAGE_FAILED,
    Piece,
    StagePassed,
    StageRefusal,
    StageRefused,
    StageReplay,
    StageRow,
    ToDriver,
)
from p2pnet.wire.stage_frames import MAX_STAGE_BODY_BYTES, encode_stage_frame
from p2pnet.worker.stages.shape import Shape

logger = logging.getLogger(__name__)

MAX_WAITING_REPLAYS = 4
"""Of one driver. It hears of each when the next stage has computed it, so it has no need of more on their way."""

MAX_REPLAYED_PER_TOKEN = 4
"""Times that a driver may have each token that was computed for it passed on again: one standby, and three stages that
are lost. Else it could have this machine send for ever, and for nothing, what it has asked for in a hundred bytes."""

PassOn = Callable[[str, bytes], Awaitable[None]]
Kept = Callable[[Sequence[Piece]], bytes]
"""What was given for these tokens. Raises StageRefusal where it is not there any more."""


class Replays:
    """Those of one driver, one after the other. Make it within an event loop."""

    def __init__(self, shape: Shape, kept: Kept, pass_on: PassOn, tell: Callable[[ToDriver], Awaitable[None]]) -> None:
        self._shape = shape
        self._kept = kept
        self._pass_on = pass_on
        self._tell = tell
        self._waiting: asyncio.Queue[StageReplay] = asyncio.Queue(MAX_WAITING_REPLAYS)
        self._left_tokens = 0
        self._task = asyncio.create_task(self._run())

    def earn(self, tokens: int) -> None:
        """So many tokens have been computed for the driver."""
        self._left_tokens += MAX_REPLAYED_PER_TOKEN * tokens

    async def take(self, replay: StageReplay) -> None:
        """Do it when its turn comes, or say why not."""
        try:
            self._check(replay)
            self._waiting.put_nowait(replay)
        except asyncio.QueueFull:
            await self._tell(StageRefused(BUSY, "too many replays at the same time", replay.step))
        except StageRefusal as refusal:
            await self._tell(StageRefused(refusal.code, str(refusal), replay.step))

    async def close(self) -> None:
        """Idempotent."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    def _check(self, replay: StageReplay) -> None:
        size = replay.tokens * self._shape.token_bytes
        if replay.tokens > MAX_STAGE_ROW_TOKENS or size > MAX_STAGE_BODY_BYTES or any(p.wanted for p in replay.pieces):
            raise StageRefusal(BAD_ROW, f"a replay of {replay.tokens} tokens makes no row")
        if replay.tokens > self._left_tokens:
            raise StageRefusal(BUSY, "more is asked for again than was ever computed")
        self._left_tokens -= replay.tokens

    async def _run(self) -> None:
        while True:
            replay = await self._waiting.get()
            try:
                await self._serve(replay)
            except StageRefusal as refusal:
                await self._tell(StageRefused(refusal.code, str(refusal), replay.step))
            except Exception:  # the edge: whatever a bug may be, the driver hears of it, and others go on
                logger.exception("a replay failed")
                await self._tell(StageRefused(STAGE_FAILED, "the stage failed", replay.step))

    async def _serve(self, replay: StageReplay) -> None:
        following, *others = replay.route
        row = StageRow(
            following.ticket,
            replay.step,
            self._shape.width,
            self._shape.dtype,
            replay.pieces,
            replay.forget,
            route=tuple(others),
            is_spare=replay.is_spare,
        )
        await self._pass_on(following.peer_id, encode_stage_frame(row, self._kept(replay.pieces)))
        await self._tell(StagePassed(replay.step))
