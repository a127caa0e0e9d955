"""The workers that can do what a request asks for: those that have served this gateway, and strangers, apart.

Identities cost nothing, a request that was served does. As Bitcoin's addrman keeps the addresses that it was connected
to apart from those it was only told of, so that no number of the second kind takes the place of the first.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import nsmallest

from gateway.peers.pace import PeakEwma
from gateway.peers.worker import Worker
from gateway.routing.weighted_sampling import WeightedGroup
from p2pnet.records import ModelTask

LOOK_S = 1.0
"""How often it is looked who has served by now, and how fast they are, among more than `FEW` workers."""

FEW = 24

MAX_LEAD = 2.0
"""A worker counts as at most this many times as fast as the fastest of the others. Speed that no neighbour has is as
cheap to feign as to have, for who sends what it never computed. Twice leaves the best machine of a home the first one
to be asked; how many requests it has by that is bounded elsewhere."""

LATELY_S = 120.0
"""What was measured longer ago says nothing of how fast others are."""

DRAWS = 24
"""Draws of a stranger before all are looked at."""


class Able:
    """Those that can do the same; at least one."""

    def __init__(self, workers: Sequence[Worker], key: ModelTask) -> None:
        self.workers = workers
        self.tried: WeightedGroup | None = None
        self.strangers: Strangers | None = None
        self.least_first_token_s = 0.0
        self.least_token_s = 0.0
        """No worker counts as faster than this, whatever was measured."""
        self._key = key
        self._tried_count: int | None = None
        self._looked_s = float("-inf")

    def look(self, now_s: float) -> None:
        """Find out who has served by now."""
        if len(self.workers) > FEW and now_s - self._looked_s < LOOK_S:
            return
        self._looked_s = now_s
        tried = [worker for worker in self.workers if worker.is_tried]
        paces = [worker.pace(self._key) for worker in tried]
        self.least_first_token_s = _second_least([pace.first_token_s for pace in paces], now_s) / MAX_LEAD
        self.least_token_s = _second_least([pace.token_s for pace in paces], now_s) / MAX_LEAD
        if len(tried) != self._tried_count:
            self._tried_count = len(tried)
            self.tried = WeightedGroup(tried) if tried else None
            strangers = [worker for worker in self.workers if not worker.is_tried]
            self.strangers = Strangers(strangers) if strangers else None


class Strangers:
    """Workers that have served nothing yet, by their subnets; at least one."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._by_subnet: dict[str, list[Worker]] = {}
        for worker in workers:
            for subnet in worker.subnets or ("",):
                self._by_subnet.setdefault(subnet, []).append(worker)
        self._subnets = list(self._by_subnet)

    def draw(self, rng: random.Random, is_ready: Callable[[Worker], bool], count: int) -> list[Worker]:
        """Some different ones that are ready, each subnet as often as any other, however many it has."""
        found: dict[str, Worker] = {}
        for _ in range(DRAWS):
            worker = rng.choice(self._by_subnet[rng.choice(self._subnets)])
            if worker.peer_id not in found and is_ready(worker):
                found[worker.peer_id] = worker
                if len(found) == count:
                    break
        return list(found.values())

    def is_free(self, worker: Worker) -> bool:
        """Whether no stranger of its subnets has a request of ours: they are tried one at a time."""
        return not any(self._is_busy(subnet) for subnet in worker.subnets or ("",))

    def _is_busy(self, subnet: str) -> bool:
        return any(worker.in_flight and not worker.is_tried for worker in self._by_subnet.get(subnet, ()))


def _second_least(measured: Sequence[PeakEwma], now_s: float) -> float:
    """What is the least of the others, to the one that has the least: 0 where there are no others."""
    lately = (each.value for each in measured if each.value is not None and now_s - each.noted_s <= LATELY_S)
    least = nsmallest(2, lately)
    return least[1] if len(least) == 2 else 0.0
