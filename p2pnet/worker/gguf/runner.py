"""Runs a GGUF file's model as our engine's runner, and keeps the engine's accounts of llama.cpp's cells.

Knows nothing of sampling or scheduling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.memory import Room
from p2pnet.worker.engine.runner import Part
from p2pnet.worker.gguf.context import MAX_SEQUENCES, Context, Rows
from p2pnet.worker.gguf.rows import Call, Kind, Piece, RowLimits, calls

_UNKNOWN = -1
"""How many tokens llama.cpp has of a sequence of which a step has failed."""


@dataclass
class Cells:
    """The sequence of llama.cpp's that a Kv stands for, and how many of its tokens are computed."""

    sequence: int
    filled: int = 0


class LlamaStore(KvStore):
    """The cells of one context. A sequence never has more of them than its Kv has capacity, so a step always finds
    room: cells that several sequences share count for each.

    Without a free number for another sequence nothing is free: kept prefixes go then, as when memory runs out.
    """

    def __init__(self, context: Context, total_tokens: int, sequences: int = MAX_SEQUENCES) -> None:
        super().__init__(total_tokens)
        self.context = context
        self._free_sequences = list(range(sequences))

    @property
    def free_tokens(self) -> int:
        return super().free_tokens if self._free_sequences else 0

    def open(self, tokens: int) -> Kv | None:
        kv = super().open(tokens)
        if kv is not None:
            kv.cache = Cells(self._free_sequences.pop())
        return kv

    def close(self, kv: Room) -> None:
        assert isinstance(kv, Kv)
        cells = cells_of(kv)
        self.context.forget(cells.sequence, 0)
        self._free_sequences.append(cells.sequence)
        super().close(kv)

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        assert isinstance(source, Kv) and isinstance(target, Kv)
        self.context.copy(cells_of(source).sequence, cells_of(target).sequence, tokens)
        cells_of(target).filled = tokens
        return True


class LlamaRunner:
    """Runs the parts of a step in as few calls of llama.cpp as `limits` allow."""

    def __init__(self, context: Context, goes_back: bool, limits: RowLimits, spare_sequence: int) -> None:
        """`goes_back` says that a sequence's last tokens can be forgotten, and computed again. `spare_sequence` is
        nobody's."""
        self._context = context
        self._limits = limits
        self._spare = spare_sequence
        self.is_packed = goes_back

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """See Runner. Raises ContextFailed."""
        pieces: list[Piece] = []
        for number, part in enumerate(parts):
            cells = cells_of(part.kv)
            if cells.filled != part.start:
                self._context.forget(cells.sequence, part.start)
            cells.filled = _UNKNOWN
            pieces.extend(_pieces(number, part, cells.sequence, self._limits))
        found: list[list[npt.NDArray[np.float32]]] = [[] for _ in parts]
        for call in calls(pieces, self._limits):
            for number, row in zip(call.parts, self._compute(call), strict=True):
                found[number].append(row)
        for part in parts:
            cells_of(part.kv).filled = part.start + len(part.ids)
        return [torch.from_numpy(np.stack(rows)) if rows else torch.empty(0) for rows in found]

    def _compute(self, call: Call) -> npt.NDArray[np.float32]:
        if not call.padding:
            return self._context.compute(call.rows)
        padding = Rows.of([0] * call.padding, 0, self._spare)
        try:
            return self._context.compute(Rows.joined([call.rows, padding]))
        finally:
            self._context.forget(self._spare, 0)


def _pieces(number: int, part: Part, sequence: int, limits: RowLimits) -> Iterator[Piece]:
    """A part's rows: those of the prompt, and those of the answer."""
    rows = Rows.of(part.ids, part.start, sequence, part.logits)
    prompt_tokens = part.start + len(rows) if part.prompt_tokens is None else part.prompt_tokens
    end = max(0, min(len(rows), prompt_tokens - part.start))
    if end:
        yield Piece(number, limits.kind_of_prompt(prompt_tokens), rows[:end])
    if end < len(rows):
        yield Piece(number, Kind.NEXT if len(rows) == 1 else Kind.AGAIN, rows[end:])


def cells_of(kv: Kv) -> Cells:
    assert isinstance(kv.cache, Cells)
    return kv.cache
