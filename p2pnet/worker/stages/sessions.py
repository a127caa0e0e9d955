"""Follows one driver at a stage: takes its rows in order, has them computed, and passes on what comes of them.

Knows nothing of how rows arrive, nor of what other drivers do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import msgspec

from p2pnet.errors import PeerLost
from p2pnet.network.interface import Stream
from p2pnet.stage_messages import (
    BAD_ROW,
    STAGE_FAILED,
    StageOpen,
    StagePassed,
    StageRefusal,
    StageRefused,
    StageReplay,
    StageResult,
    StageRow,
    ToDriver,
)
from p2pnet.wire.stage_frames import StageFrame, encode_stage_frame
from p2pnet.worker.stages.computing import StageComputer
from p2pnet.worker.stages.replays import PassOn, Replays
from p2pnet.worker.stages.shelf import Drawer

logger = logging.getLogger(__name__)

MAX_WAITING_ROWS = 4
"""Of one driver. Whoever brings a further one is not read until there is room."""

TELL_S = 10.0
"""How long a driver may read nothing of what it is told."""

_Brought = tuple[StageFrame[StageRow], Callable[[], None]]


class Session:
    """One driver's ticket. Make it within an event loop."""

    def __init__(
        self,
        stream: Stream,
        opened: StageOpen,
        drawer: Drawer,
        computer: StageComputer,
        pass_on: PassOn,
        now_s: float,
    ) -> None:
        self.stream = stream
        self.ticket = opened.ticket
        self.drawer = drawer
        self.used_s = now_s
        self._layers = (opened.first, opened.last)
        self._compute = computer.compute
        self._pass_on = pass_on
        self._rows: asyncio.Queue[_Brought] = asyncio.Queue(MAX_WAITING_ROWS)
        self._last_step = 0
        self._rows_left = 0
        self._is_closed = False
        self._telling = asyncio.Lock()
        self._replays = Replays(computer.shape, partial(computer.kept, drawer), pass_on, self.tell)
        self._task = asyncio.create_task(self._run())

    @property
    def driver(self) -> str:
        return self.stream.peer_id

    @property
    def is_at_work(self) -> bool:
        """Whether the driver waits for us, and is not silent then."""
        return self._rows_left > 0

    async def take(self, frame: StageFrame[StageRow], now_s: float, done: Callable[[], None]) -> None:
        """Take a row; waits while others wait. `done` is called, once, when its numbers are needed no more."""
        self.used_s = now_s
        self._rows_left += 1
        await self._rows.put((frame, done))
        if self._is_closed:
            self._drop_rows()

    async def take_replay(self, replay: StageReplay, now_s: float) -> None:
        """What was given once is to be passed on again, beside the rows."""
        self.used_s = now_s
        await self._replays.take(replay)

    async def tell(self, message: ToDriver, body: bytes = b"") -> None:
        """Tell the driver. One that does not read loses its stream."""
        try:
            async with asyncio.timeout(TELL_S), self._telling:
                await self.stream.write(encode_stage_frame(message, body))
        except (PeerLost, TimeoutError):
            self.stream.close()

    async def close(self) -> None:
        """Idempotent."""
        self._is_closed = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self._replays.close()
        self._drop_rows()

    def _drop_rows(self) -> None:
        while not self._rows.empty():  # whoever waits to bring one goes on
            _, done = self._rows.get_nowait()
            done()

    async def _run(self) -> None:
        while True:
            frame, done = await self._rows.get()
            try:
                await self._serve(frame.header, frame.body)
            except StageRefusal as refusal:
                await self.tell(StageRefused(refusal.code, str(refusal), frame.header.step))
            except Exception:  # the edge: whatever a bug may be, the driver hears of it, and other rows go on
                logger.exception("a row failed")
                await self.tell(StageRefused(STAGE_FAILED, "the stage failed", frame.header.step))
            finally:
                self._rows_left -= 1
                done()

    async def _serve(self, row: StageRow, body: bytes) -> None:
        if row.step <= self._last_step:
            raise StageRefusal(BAD_ROW, f"step {row.step} after {self._last_step}")
        self._last_step = row.step
        found = await self._compute(self.drawer, self._layers, row, body)
        self._replays.earn(row.tokens)
        if not row.route:
            tokens = sum(piece.wanted for piece in row.pieces)
            await self.tell(StageResult(row.step, row.width, row.dtype, tokens), found)
            return
        onward = msgspec.structs.replace(row, ticket=row.route[0].ticket, route=row.route[1:])
        await self._pass_on(row.route[0].peer_id, encode_stage_frame(onward, found))
        await self.tell(StagePassed(row.step))
