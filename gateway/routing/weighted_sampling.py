"""Draws workers in proportion to their slots, and finds the few that a key hashes to.

Knows nothing of requests, load or health.
"""

from __future__ import annotations

import random
from bisect import bisect, bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate
from math import log

from gateway.peers.worker import Worker

MAX_WEIGHT = 64
"""Slots cost nothing to claim: beyond this many they bring a worker no more requests. Nor are its requests counted for
less: one among a thousand slots would weigh nothing, and of workers that are equally fast one would get them all."""

WINDOW = 8
"""Workers among which a key is hashed: enough to even out the ring, and rendezvous over thousands would cost more than
a known beginning saves."""

KEY_BYTES = 16
"""Of keys, and of positions on the ring."""


class WeightedGroup:
    """Workers that are able to do the same; at least one."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self.workers = workers
        self._weights = [weight_of(worker) for worker in workers]
        self._drawn = list(accumulate(self._weights))
        self._ring: list[tuple[bytes, int]] | None = None

    def draw(self, rng: random.Random) -> Worker:
        """Any of them, in proportion to its slots."""
        return self.workers[bisect(self._drawn, rng.random() * self._drawn[-1])]

    def near(self, key: bytes) -> list[Worker]:
        """The same few for the same key, best first, and mostly the same when others come or go.

        Weighted rendezvous hashing (Thaler and Ravishankar 1998) over the next few on a ring of all."""
        if self._ring is None:
            self._ring = sorted((_position(worker.peer_id), index) for index, worker in enumerate(self.workers))
        ring, begin = self._ring, bisect_left(self._ring, (key, 0))
        window = [ring[(begin + step) % len(ring)][1] for step in range(min(WINDOW, len(ring)))]
        window.sort(key=lambda index: _distance(key, self.workers[index].peer_id) / self._weights[index])
        return [self.workers[index] for index in window]


def weight_of(worker: Worker) -> int:
    """Its slots, as far as they are believed."""
    return min(worker.believed_slots, MAX_WEIGHT)


@lru_cache(maxsize=1 << 14)
def _position(peer_id: str) -> bytes:
    return blake2b(peer_id.encode(), digest_size=KEY_BYTES).digest()


def _distance(key: bytes, peer_id: str) -> float:
    """Exponentially distributed: divided by weights, each is the smallest in proportion to its weight."""
    hashed = blake2b(key + peer_id.encode(), digest_size=8).digest()
    return -log((int.from_bytes(hashed, "big") + 1) / (1 << 64))
