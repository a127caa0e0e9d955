"""Computes the rows that wait at a stage, whoever sent them, as many as fit into one forward pass.

Knows nothing of streams and of where rows go next.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from p2pnet.stage_messages import (
    BAD_NUMBERS,
    BAD_ROW,
    DRAINING,
    MAX_STAGE_ROW_TOKENS,
    STAGE_FAILED,
    Piece,
    StageRefusal,
    StageRow,
)
from p2pnet.worker.engine.turns import Turns
from p2pnet.worker.spans.rows import are_finite, to_body, to_states
from p2pnet.worker.spans.running import Stretch
from p2pnet.worker.stages.outputs import keep_outputs, kept_outputs
from p2pnet.worker.stages.shape import Shape
from p2pnet.worker.stages.shelf import Drawer, Placed, Shelf

logger = logging.getLogger(__name__)

MAX_PASS_TOKENS = 512
"""Of all rows of one forward pass together: what an engine computes of prompts in one step. A larger row is alone."""

SMALL_PASS_TOKENS = 32
"""Passes with more tokens do not say how fast a stage is: a prompt takes many times as long, wherever it is."""
MAX_PASSED_OVER = 8
"""Passes that a spare row lets others go first. Then it has its turn, as rows of its driver may wait behind it."""

SMOOTHING = 0.1
"""How much the last pass says of how long one takes."""

Layers = tuple[int, int]
"""First and last, as in the wire's messages."""


class Computes(Protocol):
    """What runs layers on rows: see `spans.running.SpanRunner`."""

    def forward(self, row: torch.Tensor, stretches: Sequence[Stretch], first: int, last: int) -> torch.Tensor: ...


@dataclass(eq=False)
class _Waiting:
    """A row that waits. `wants_rows` says that the chain ends here: what the driver wants is kept, and nothing else."""

    drawer: Drawer
    layers: Layers
    row: StageRow
    body: bytes
    done: asyncio.Future[bytes]
    placed: list[Placed]

    @property
    def is_last(self) -> bool:
        return not self.row.route


class StageComputer:
    """Computes all rows of one stage, in turns with what else the machine computes. Make it within an event loop."""

    def __init__(
        self,
        runner: Computes,
        shelf: Shelf,
        shape: Shape,
        turns: Turns,
        now_s: Callable[[], float] = time.monotonic,
        step_ms: float = 0.0,
    ) -> None:
        self._runner: Computes | None = runner
        self._shelf = shelf
        self.shape = shape
        self._turns = turns
        self._now_s = now_s
        self._waiting: deque[_Waiting] = deque()
        self._spare: deque[_Waiting] = deque()
        self._passed_over = 0
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._is_closed = False
        self.step_ms = step_ms
        """How long a forward pass with few tokens takes here, lately; 0 while that is not known."""

    async def compute(self, drawer: Drawer, layers: Layers, row: StageRow, body: bytes) -> bytes:
        """The numbers of a row after these layers: where it goes on from here all of them, else those that the driver
        wants. Raises StageRefusal."""
        if (row.width, row.dtype) != (self.shape.width, self.shape.dtype):
            raise StageRefusal(BAD_ROW, f"{row.width} {row.dtype} numbers a token, not {self.shape}")
        if row.tokens > MAX_STAGE_ROW_TOKENS:
            raise StageRefusal(BAD_ROW, f"{row.tokens} tokens in one row, {MAX_STAGE_ROW_TOKENS} allowed")
        if any(piece.wanted > piece.count for piece in row.pieces):
            raise StageRefusal(BAD_ROW, "more tokens are wanted than there are")
        if self._is_closed:
            raise StageRefusal(DRAINING, "this stage is stopping")
        waiting = _Waiting(drawer, layers, row, body, asyncio.get_running_loop().create_future(), [])
        (self._spare if row.is_spare else self._waiting).append(waiting)
        self._news.set()
        return await waiting.done

    def kept(self, drawer: Drawer, pieces: Sequence[Piece]) -> bytes:
        """The numbers that these layers gave before. Raises StageRefusal where they are not there any more."""
        placed = [(each.held.kv, each.piece) for each in self._shelf.computed(drawer, pieces)]
        return to_body(torch.cat([kept_outputs(kv, piece.start, piece.start + piece.count) for kv, piece in placed]))

    async def close(self) -> None:
        """Compute nothing after what is just being computed, and let go of the layers. What waits is refused."""
        self._is_closed = True
        self._news.set()
        await self._task
        self._runner = None  # whoever still knows this computer does not keep their memory
        for waiting in (*self._waiting, *self._spare):
            _end(waiting, StageRefusal(DRAINING, "this stage is stopping"))

    async def _run(self) -> None:
        while not self._is_closed:
            await self._news.wait()
            self._news.clear()
            while not self._is_closed and (batch := self._next_batch()):
                await self._compute(batch)

    def _next_batch(self) -> list[_Waiting]:
        """The rows that are computed next. What is spare waits for all others, but not for ever."""
        is_turn_of_spare = bool(self._spare) and self._passed_over >= MAX_PASSED_OVER
        batch = [] if is_turn_of_spare else self._taken(self._waiting)
        self._passed_over = self._passed_over + 1 if batch and self._spare else 0
        return batch or self._taken(self._spare)

    def _taken(self, rows: deque[_Waiting]) -> list[_Waiting]:
        """Some of these, in the order in which they came, with room for their tokens. One of each driver: its next one
        may go on from it."""
        batch: list[_Waiting] = []
        while rows:
            waiting = rows[0]
            if batch and not self._fits(waiting, batch):
                return batch
            rows.popleft()
            if waiting.done.done():  # nobody waits for it any more
                continue
            try:
                self._place(waiting)
            except StageRefusal as refusal:
                _end(waiting, refusal)
                continue
            batch.append(waiting)
        return batch

    def _fits(self, waiting: _Waiting, batch: list[_Waiting]) -> bool:
        tokens = sum(other.row.tokens for other in batch) + waiting.row.tokens
        is_another = all(waiting.drawer is not other.drawer for other in batch)
        return is_another and tokens <= MAX_PASS_TOKENS and waiting.layers == batch[0].layers

    def _place(self, waiting: _Waiting) -> None:
        drawer, row = waiting.drawer, waiting.row
        if not drawer.is_open:
            raise StageRefusal(DRAINING, "the driver has gone")
        self._shelf.forget(drawer, row.forget)
        self._shelf.copy(drawer, row.copies)
        waiting.placed = self._shelf.place(drawer, row.pieces, row.is_spare)

    async def _compute(self, batch: list[_Waiting]) -> None:
        began_s = self._now_s()
        found = await self._turns.take(partial(self._step, batch))
        took_ms = (self._now_s() - began_s) * 1000
        if sum(waiting.row.tokens for waiting in batch) <= SMALL_PASS_TOKENS:
            self.step_ms = took_ms if not self.step_ms else self.step_ms + SMOOTHING * (took_ms - self.step_ms)
        for waiting, result in zip(batch, found, strict=True):
            self._shelf.settle(waiting.drawer, waiting.placed, not isinstance(result, StageRefusal))
            _end(waiting, result)

    def _step(self, batch: list[_Waiting]) -> list[bytes | StageRefusal]:
        """In the thread that computes. One row that makes the pass fail does not harm the others."""
        rows = [to_states(each.body, each.row.width, each.row.dtype) for each in batch]
        good = [each for each, row in zip(batch, rows, strict=True) if are_finite(row)]
        found: dict[_Waiting, bytes | StageRefusal] = {
            each: StageRefusal(BAD_NUMBERS, "hidden states that are no finite numbers") for each in batch
        }
        kept = dict(zip(batch, rows, strict=True))
        try:
            found |= self._forward(good, [kept[each] for each in good])
        except Exception:
            if len(good) > 1:
                logger.warning("a forward pass failed and is repeated one row at a time", exc_info=True)
            for each in good:
                found[each] = self._alone(each, kept[each])
        return [found[each] for each in batch]

    def _alone(self, waiting: _Waiting, row: torch.Tensor) -> bytes | StageRefusal:
        try:
            return self._forward([waiting], [row])[waiting]
        except Exception:  # whatever one row did to the model, the stage goes on
            logger.exception("a row failed")
            return StageRefusal(STAGE_FAILED, "the model failed while it computed")

    def _forward(self, batch: list[_Waiting], rows: list[torch.Tensor]) -> dict[_Waiting, bytes | StageRefusal]:
        stretches = [
            Stretch(each.piece.start, each.piece.count, each.held.kv) for waiting in batch for each in waiting.placed
        ]
        if not stretches:
            return dict.fromkeys(batch, b"")
        assert self._runner is not None  # it is computed before this is closed
        states = self._runner.forward(torch.cat(rows), stretches, *batch[0].layers)
        parts = torch.split(states, [len(row) for row in rows])
        return {waiting: _leaving(waiting, part) for waiting, part in zip(batch, parts, strict=True)}


def _leaving(waiting: _Waiting, states: torch.Tensor) -> bytes | StageRefusal:
    if not are_finite(states):
        return StageRefusal(STAGE_FAILED, "its hidden states are no finite numbers")
    pieces = torch.split(states, [piece.count for piece in waiting.row.pieces])
    if waiting.drawer.is_keeping:
        for each, part in zip(waiting.placed, pieces, strict=True):
            keep_outputs(each.held.kv, each.piece.start, part)
    if not waiting.is_last:
        return to_body(states)
    wanted = [part[len(part) - piece.wanted :] for part, piece in zip(pieces, waiting.row.pieces, strict=True)]
    return to_body(torch.cat(wanted))


def _end(waiting: _Waiting, result: bytes | StageRefusal) -> None:
    if waiting.done.done():
        return
    if isinstance(result, StageRefusal):
        waiting.done.set_exception(result)
    else:
        waiting.done.set_result(result)
