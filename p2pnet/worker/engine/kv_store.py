"""Stores keys and values: one buffer for each sequence and layer, within a budget.

Counts in tokens, allocates in torch. Buffers are contiguous, so attention reads them as they are; they grow by copying.
Knows nothing of requests, of who may have memory, nor of attention.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from p2pnet.worker.engine.memory import BLOCK_TOKENS, Room, whole_blocks

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Kv:
    """The keys and values of one sequence: by layer, (heads, capacity, dimension) each. `capacity` is in tokens.

    A model that keeps its own kind of cache has it in `cache`, and the layers stay empty.
    """

    capacity: int
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    cache: Any = None

    def write(
        self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store (heads, tokens, dimension) from position `start` on. Returns all up to their end, not copied."""
        held = self.layers.get(layer)
        if held is None:  # now is when heads and dimension are known
            held = self.layers[layer] = (self._buffer(keys), self._buffer(values))
        end = start + keys.shape[1]
        held[0][:, start:end] = keys
        held[1][:, start:end] = values
        return held[0][:, :end], held[1][:, :end]

    def _buffer(self, like: torch.Tensor) -> torch.Tensor:
        return like.new_empty((like.shape[0], self.capacity, like.shape[2]))


class KvStore:
    """All buffers of one model, at most `total_tokens` together: a `memory.KvMemory` whose rooms are Kv."""

    def __init__(self, total_tokens: int) -> None:
        self.total_tokens = total_tokens - total_tokens % BLOCK_TOKENS
        self._used_tokens = 0

    @property
    def free_tokens(self) -> int:
        return self.total_tokens - self._used_tokens

    def open(self, tokens: int) -> Kv | None:
        """Room for so many tokens, or None when there is not enough."""
        capacity = whole_blocks(tokens)
        if capacity > self.free_tokens:
            return None
        self._used_tokens += capacity
        return Kv(capacity)

    def grow(self, kv: Room, tokens: int) -> bool:
        """Make room for so many tokens in all, keeping what is there. False when there is not enough."""
        assert isinstance(kv, Kv)
        capacity = whole_blocks(tokens)
        if capacity - kv.capacity > self.total_tokens - self._used_tokens:
            return False
        try:
            for layer, buffers in kv.layers.items():  # one by one: only one layer is there twice at any time
                kv.layers[layer] = (_grown(buffers[0], capacity), _grown(buffers[1], capacity))
        except (RuntimeError, MemoryError) as error:  # on a CPU, torch has no error of its own for this
            logger.warning("the machine has less memory than --kv-memory allows: %s", error)
            return False
        self._used_tokens += capacity - kv.capacity
        kv.capacity = capacity
        return True

    def close(self, kv: Room) -> None:
        assert isinstance(kv, Kv)
        self._used_tokens -= kv.capacity
        kv.capacity, kv.cache = 0, None
        kv.layers.clear()

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        """Give `target`, which is empty, the first tokens of `source`. False when there is not enough after all: then
        it is still empty."""
        assert isinstance(source, Kv) and isinstance(target, Kv)
        try:
            for layer, (keys, values) in source.layers.items():
                target.write(layer, 0, keys[:, :tokens], values[:, :tokens])
        except (RuntimeError, MemoryError) as error:
            logger.warning("the machine has less memory than --kv-memory allows: %s", error)
            target.layers.clear()
            return False
        return True


def _grown(buffer: torch.Tensor, capacity: int) -> torch.Tensor:
    if buffer.shape[1] >= capacity:  # it was grown before another layer's could not be
        return buffer
    grown = buffer.new_empty((buffer.shape[0], capacity, buffer.shape[2]))
    grown[:, : buffer.shape[1]] = buffer
    return grown
