"""Runs a GGUF file's model as our engine's runner, and keeps the engine's accounts of llama.cpp's cells.

Knows nothing of sampling or scheduling.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from p2pnet.worker.engine.kv_store import Kv, KvStore
from p2pnet.worker.engine.memory import Room
from p2pnet.worker.engine.runner import Part
from p2pnet.worker.gguf.context import MAX_SEQUENCES, Context, fill

logger = logging.getLogger(__name__)

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
    """Runs all parts in one batch of llama.cpp's."""

    def __init__(self, context: Context, goes_back: bool) -> None:
        """`goes_back` says that a sequence's last tokens can be forgotten, and computed again."""
        self._context = context
        self.is_packed = goes_back

    def forward(self, parts: Sequence[Part]) -> list[torch.Tensor]:
        """See Runner. Raises ContextFailed."""
        batch, at = self._context.batch, 0
        for part in parts:
            cells = cells_of(part.kv)
            if cells.filled != part.start:
                self._context.forget(cells.sequence, part.start)
            cells.filled = _UNKNOWN
            at = fill(batch, at, part.ids, part.start, cells.sequence, part.logits)
        logits: Any = torch.from_numpy(self._context.compute(at))
        for part in parts:
            cells_of(part.kv).filled = part.start + len(part.ids)
        return list(logits.split([part.logits for part in parts]))


def cells_of(kv: Kv) -> Cells:
    assert isinstance(kv.cache, Cells)
    return kv.cache
