"""Remembers to whom a model's last requests went, and says who has had enough of them while others have room."""

from __future__ import annotations

from collections import OrderedDict, deque

from gateway.peers.worker import Worker
from p2pnet.records import ModelTask

WINDOW = 24
"""Shares are of so many requests of a model in a row: a third, a half, two thirds and an eighth are whole numbers."""

MAX_SHARES = (1.0, 2 / 3, 1 / 2, 1 / 3)
"""Of a model's requests that one worker may have, by how many have room: one, two, three, or more. Until audits exist
nobody knows whether a fast answer is a right one, so that no single worker may have most of them. Of two and of three
the bound leaves room for the better one: with a third of three, speed would count for nothing."""

STRANGERS_TURN = 8
"""One request in so many goes to a worker that has served none yet, at most, while those that have can serve. So a
newcomer comes to its first requests soon, and a flood of them costs an eighth of the answers at worst."""

MAX_MODELS = 1024
"""Models of which this is remembered; names are strangers' input."""


class RecentChoices:
    """One gateway's."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[ModelTask, deque[tuple[str, bool]]] = OrderedDict()

    def note(self, key: ModelTask, worker: Worker) -> None:
        """A request goes there now."""
        self._by_key.setdefault(key, deque(maxlen=WINDOW - 1)).append((worker.peer_id, worker.is_tried))
        self._by_key.move_to_end(key)
        if len(self._by_key) > MAX_MODELS:
            self._by_key.popitem(last=False)

    def is_strangers_turn(self, key: ModelTask) -> bool:
        """Whether none of the last requests went to one."""
        last = list(self._by_key.get(key, ()))[1 - STRANGERS_TURN :]
        return all(is_tried for _, is_tried in last)

    def has_share_left(self, key: ModelTask, worker: Worker, ready: int) -> bool:
        """Whether it may have one more while so many have room, itself included."""
        had = sum(1 for peer_id, _ in self._by_key.get(key, ()) if peer_id == worker.peer_id)
        return had + 1 <= WINDOW * MAX_SHARES[min(ready, len(MAX_SHARES)) - 1]
