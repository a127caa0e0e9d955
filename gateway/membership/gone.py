"""Keeps workers that have gone, with what was measured of them, in case they come back."""

from __future__ import annotations

from collections import OrderedDict

from gateway.peers.worker import Worker

MAX_GONE = 1_000
"""Of more, the first that went are forgotten."""


class Gone:
    """By peer id."""

    def __init__(self) -> None:
        self._workers: OrderedDict[str, Worker] = OrderedDict()

    def __contains__(self, peer_id: object) -> bool:
        return peer_id in self._workers

    def put(self, worker: Worker) -> None:
        self._workers[worker.peer_id] = worker
        if len(self._workers) > MAX_GONE:
            self._workers.popitem(last=False)

    def take(self, peer_id: str) -> Worker:
        """One that is back."""
        return self._workers.pop(peer_id)
