"""Keeps keys and values of finished answers for prompts that begin in the same way. Pure: no torch, no clock.

Reuse is by whole blocks of REUSE_TOKENS, which is also what a stranger could learn from it: whoever wants to find out
what others have asked must guess that many tokens at once, instead of one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from p2pnet.worker.engine.memory import Room

REUSE_TOKENS = 32
MAX_PREFIXES = 256
"""Each is compared with every new prompt."""

Ids = npt.NDArray[np.int32]
"""They are compared in every step in which somebody waits: as lists, long prompts would hold up all others."""


@dataclass(frozen=True, eq=False)
class Prefix:
    """The ids whose keys and values are in `kv`."""

    ids: Ids
    kv: Room


class PrefixCache:
    """Keeps prefixes. The one that was not used for longest goes first."""

    def __init__(self) -> None:
        self._prefixes: dict[Room, Prefix] = {}

    def __len__(self) -> int:
        return len(self._prefixes)

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._prefixes.values())

    @property
    def tokens(self) -> int:
        """How much memory all prefixes have, in tokens."""
        return sum(kv.capacity for kv in list(self._prefixes))  # a copy: other threads ask how full the memory is

    def put(self, prefix: Prefix) -> list[Room]:
        """Keep it as the one used last. Returns prefixes that are not needed any more: those that it contains, or
        itself, or the oldest beyond the limit."""
        dropped: list[Room] = []
        for known in list(self._prefixes.values()):
            common = common_length(known.ids, prefix.ids)
            if common == len(prefix.ids):
                return [*dropped, prefix.kv]
            if common == len(known.ids):
                dropped.append(self.take(known))
        self._prefixes[prefix.kv] = prefix
        if len(self._prefixes) > MAX_PREFIXES:
            dropped.append(self.take(next(iter(self))))
        return dropped

    def take(self, prefix: Prefix) -> Room:
        """Remove it; its memory is the caller's."""
        return self._prefixes.pop(prefix.kv).kv

    def touch(self, prefix: Prefix) -> None:
        """Note that it was used just now."""
        self._prefixes[prefix.kv] = self._prefixes.pop(prefix.kv)

    def oldest(self) -> Prefix | None:
        return next(iter(self), None)


def id_array(ids: Sequence[int]) -> Ids:
    return np.array(ids, dtype=np.int32)


def common_length(one: Ids, other: Ids) -> int:
    """How many ids both have in common at their beginning."""
    size = min(len(one), len(other))
    if one[:REUSE_TOKENS].tobytes() != other[:REUSE_TOKENS].tobytes():  # nearly always, and quickly seen
        size = min(size, REUSE_TOKENS)
    different = one[:size] != other[:size]
    first = int(different.argmax()) if size else 0
    return first if size and different[first] else size


def reusable(common: int, prompt_length: int) -> int:
    """How many of the common ids may be reused: whole blocks, and not the last one, whose logits are needed."""
    usable = min(common, prompt_length - 1)
    return usable - usable % REUSE_TOKENS
