"""Spreads the workers of a popular model over several keys of the directory, by rules that each peer keeps for itself.

A model's own key is level 0. Level k has 2^k shards, and a worker's shard follows from its peer id. A worker goes to
the first level where its shard is not full; a reader goes down while what it reads is full. How full a shard is, most
of the peers say that store it. Pure: asks nobody, and knows nothing of records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

FULL_SHARD = 512
"""Workers of one model under one key, before others go to the next level. Storing peers take 900: those that come at
the same time, and those of earlier versions, which know no levels, find room."""

MAX_LEVEL = 10
"""A million workers of one model. A record may lie on any of these levels, and is checked against each."""

SPARSE_SHARD = FULL_SHARD // 4
"""Where there are fewer, a reader looks a level higher the next time; if that is full, lower again."""

ROOMY_SHARD = FULL_SHARD // 2
"""Where fewer are left, workers come back from the level below: well under FULL_SHARD, so that they do not go to and
fro."""

HeldUnder = Callable[[str], int]
"""How many workers lie under a key, as most of the peers nearest to it say."""


def shard_key(model: str, level: int, shard: int) -> str:
    """The key of one shard. Level 0 is the model's own key, where all versions look."""
    return f"p2pnet/1/shard/{level}/{shard}/{model}" if level else f"p2pnet/1/model/{model}"


def shard_on(level: int, peer_id: str) -> int:
    """Which shard of a level a worker belongs to."""
    return int.from_bytes(hashlib.sha1(peer_id.encode()).digest()[1:3], "big") % (1 << level)


class Placing:
    """On which level one worker announces each of its models. Where it has settled it stays, since its own place there
    is what makes the shard as full as it is."""

    def __init__(self, peer_id: str) -> None:
        self._peer_id = peer_id
        self._levels: dict[str, int] = {}
        self._settled: set[str] = set()

    def level(self, model: str) -> int:
        return self._levels.get(model, 0)

    def key(self, model: str) -> str:
        """Where it announces this model."""
        return self._key(model, self.level(model))

    def key_above(self, model: str) -> str | None:
        """One level higher; None where there is none."""
        level = self.level(model)
        return self._key(model, level - 1) if level else None

    def goes_down(self, model: str, held: HeldUnder) -> bool:
        """After it has announced itself on `key`: whether it has to be announced on another one, since others had
        filled this."""
        level = self.level(model)
        if model in self._settled or level == MAX_LEVEL or held(self.key(model)) < FULL_SHARD:
            self._settled.add(model)
            return False
        self._levels[model] = level + 1
        return True

    def go_up(self, model: str) -> None:
        """There is room above, or nobody who stores where it is now."""
        self._levels[model] = max(0, self.level(model) - 1)
        self._settled.add(model)

    def doubt(self) -> None:
        """Something was not taken: no place is sure any more."""
        self._settled.clear()

    def keep(self, models: set[str]) -> None:
        """Forget all other models."""
        self._levels = {model: level for model, level in self._levels.items() if model in models}
        self._settled &= models

    def _key(self, model: str, level: int) -> str:
        return shard_key(model, level, shard_on(level, self._peer_id))


@dataclass
class Sampling:
    """Which shards of one model one reader reads: one by its own lot among all that there are, so that each worker has
    the same chance with some reader, and one of the lowest level, to see whether there are more. `lot` is from 0 to 1.
    """

    lot: float
    depth: int = 0
    """The lowest level that it knows of."""

    def keys(self, model: str) -> list[str]:
        """What to read now, the one on the lowest level first."""
        number = int(self.lot * ((2 << self.depth) - 1)) + 1
        level = number.bit_length() - 1
        places = ((self.depth, int(self.lot * (1 << self.depth))), (level, number - (1 << level)))
        return list(dict.fromkeys(shard_key(model, level, shard) for level, shard in places))

    def note(self, held: int) -> None:
        """How many workers lie under the first of `keys`."""
        if held >= FULL_SHARD:
            self.depth = min(MAX_LEVEL, self.depth + 1)
        elif held < SPARSE_SHARD:
            self.depth = max(0, self.depth - 1)
