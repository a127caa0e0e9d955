"""Defines the memory for keys and values as the scheduler sees it: tokens, in whole blocks.

Knows nothing of tensors; `kv_store.py` keeps them.
"""

from __future__ import annotations

from typing import Protocol

BLOCK_TOKENS = 64
"""Capacities are multiples of this."""


class Room(Protocol):
    """The memory that one sequence has."""

    @property
    def capacity(self) -> int:
        """How many tokens it holds at most; 0 once it was closed."""


class KvMemory(Protocol):
    """The memory that there is for one model."""

    @property
    def free_tokens(self) -> int: ...

    def open(self, tokens: int) -> Room | None:
        """Room for so many tokens, or None when there is not enough."""

    def grow(self, room: Room, tokens: int) -> bool:
        """Make it hold so many tokens in all, and keep what is there. False when there is not enough."""

    def close(self, room: Room) -> None: ...

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        """Give `target`, which is empty, the first tokens of `source`. False when there is not enough after all."""


def whole_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
