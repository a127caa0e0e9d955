"""The noise of the sampler: for each seed, position and token id one number, the same on every machine.

Counter-based, so any number can be had without those before it. docs/protocol.md specifies it with test vectors. Knows
nothing of logits.

The numbers are independent exponential variates e, and -ln e is Gumbel noise. They are arranged so that the smallest
of a block of ids is known without computing the others: the smallest of B variates is a variate divided by B, it is
equally likely to be any of them, and the others lie above it as if it were 0, since an exponential variate has no
memory. So a whole vocabulary's best noise costs one hash a block.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from p2pnet.worker.engine.scores import BLOCK_IDS

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_Words = npt.NDArray[np.uint64]

_DOMAIN = b"p2pnet/sample/2"
_BITS = 52
"""With half a step added, as many as a float64 holds exactly below 1: so no variate is 0, and none is infinite."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = np.uint64(0x94D049BB133111EB)


class Noise:
    """The noise of one step, for `ids` token ids from 0 on."""

    def __init__(self, seed: int, position: int, ids: int) -> None:
        keys = blake2b(seed.to_bytes(8, "big") + position.to_bytes(8, "big"), digest_size=16, person=_DOMAIN).digest()
        self._of_id = np.uint64(int.from_bytes(keys[:8], "big"))
        blocks = _numbers(-(-ids // BLOCK_IDS))
        words = splitmix64(np.uint64(int.from_bytes(keys[8:], "big")), blocks)
        self._least = exponential(words) / BLOCK_IDS
        self.best_ids: Ids = blocks * BLOCK_IDS + (words % np.uint64(BLOCK_IDS)).astype(np.int64)
        """The id with the most noise of each block. In the last one it may lie beyond the vocabulary."""
        self.best: Floats = -np.log(self._least)
        """The most noise of each block."""

    def of(self, ids: Ids) -> Floats:
        """The Gumbel noise of each of these ids."""
        blocks = ids // BLOCK_IDS
        above = exponential(splitmix64(self._of_id, ids))
        above[self.best_ids[blocks] == ids] = 0.0
        return -np.log(self._least[blocks] + above)


@lru_cache(maxsize=8)
def _numbers(count: int) -> Ids:
    """From 0. Nobody may change them."""
    return np.arange(count)


def splitmix64(key: np.uint64, numbers: Ids) -> _Words:
    """The numbers of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) from this state on, from 0."""
    words = (numbers + 1).astype(np.uint64) * _GAMMA + key
    words = (words ^ (words >> np.uint64(30))) * _FIRST_FACTOR
    words = (words ^ (words >> np.uint64(27))) * _SECOND_FACTOR
    return words ^ (words >> np.uint64(31))


def exponential(words: _Words) -> Floats:
    """-ln((k + 1/2) / 2^52), where k is the first 52 bits of each."""
    return -np.log(((words >> np.uint64(64 - _BITS)).astype(np.float64) + 0.5) * 2.0**-_BITS)
