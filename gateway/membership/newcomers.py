"""Newcomers: workers that are announced and have never answered this gateway. Says who is asked next.

An announcement costs its author nothing. So their number is bounded, those who do not answer wait, and subnets have
turns, not identities. Asks nobody; keeps no clock of its own.
"""

from __future__ import annotations

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.peers.subnets import subnets_of
from gateway.peers.worker import Worker
from p2pnet.records import CapabilityRecord

T = TypeVar("T")

MAX_WAITING = 1_024
"""Newcomers that wait to be asked: half a minute's. The others are left in the directory; which of them come next is
drawn by lot whenever there is room, so that nobody is kept out by those who came first."""

FIRST_PAUSE_S = 2.0
MAX_PAUSE_S = 600.0
"""Who does not answer is asked again after 2 s, and after twice as long each further time, up to the lifetime of a
record. One that announces other addresses has moved, and is asked at once; if it does not answer there, the pauses go
on growing."""

MAX_SILENT = 32_768
"""Those of which it is remembered that they did not answer; some 5 MB."""

LOTS = 4_096
"""When there are more newcomers than room, so many are drawn, and the subnets among them have their turns. To look at
the subnets of all would take as long as to read them."""


@dataclass
class _Silence:
    """That a newcomer did not answer."""

    times: int
    until_s: float
    addresses: int


class Newcomers:
    """Those of one gateway. `make` makes a worker of a record."""

    def __init__(self, make: Callable[[CapabilityRecord], Worker], rng: random.Random) -> None:
        self._make = make
        self._rng = rng
        self._waiting: dict[str, Worker] = {}
        self._silent: OrderedDict[str, _Silence] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def announce(self, model: str) -> bool:
        """Whether any of those that wait announces this model."""
        return any(card.id == model for worker in self._waiting.values() for card in worker.record.models)

    def keep(self, peer_ids: Collection[str]) -> None:
        """Forget those that are not announced any more."""
        self._waiting = {peer_id: worker for peer_id, worker in self._waiting.items() if peer_id in peer_ids}

    def offer(self, records: Iterable[CapabilityRecord], now_s: float, least_room: int = 0) -> None:
        """Take in those that may be asked by now, as far as there is room."""
        fresh = []
        for record in records:
            if (waiting := self._waiting.get(record.peer_id)) is not None:
                waiting.record = max(waiting.record, record, key=lambda each: each.sequence)
            elif self._may_be_asked(record, now_s):
                fresh.append(record)
        room = max(least_room, MAX_WAITING - len(self._waiting))
        if len(fresh) > room:
            fresh = self._drawn(fresh, room)
        self._waiting |= {record.peer_id: self._make(record) for record in fresh}

    def next(self, count: int, skip: Collection[str] = (), model: str | None = None) -> list[Worker]:
        """Whom to ask now: those that have served us in an earlier run first, then those that were not asked yet."""
        waiting = [
            worker
            for peer_id, worker in self._waiting.items()
            if peer_id not in skip and (model is None or any(card.id == model for card in worker.record.models))
        ]
        waiting = _in_turn(waiting, lambda worker: worker.subnets, self._rng)
        waiting.sort(key=lambda worker: (not worker.is_tried, self._times_silent(worker.peer_id)))
        return waiting[:count]

    def take(self, worker: Worker) -> bool:
        """It has answered. False when it is none of these."""
        if self._waiting.get(worker.peer_id) is not worker:
            return False
        del self._waiting[worker.peer_id]
        self._silent.pop(worker.peer_id, None)
        return True

    def note_silent(self, worker: Worker, now_s: float) -> None:
        """It did not answer."""
        if self._waiting.get(worker.peer_id) is not worker:
            return
        del self._waiting[worker.peer_id]
        times = self._times_silent(worker.peer_id) + 1
        until_s = now_s + min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(times - 1, 16))
        self._silent[worker.peer_id] = _Silence(times, until_s, hash(worker.record.addresses))
        self._silent.move_to_end(worker.peer_id)
        if len(self._silent) > MAX_SILENT:
            self._silent.popitem(last=False)

    def _may_be_asked(self, record: CapabilityRecord, now_s: float) -> bool:
        silence = self._silent.get(record.peer_id)
        return silence is None or now_s >= silence.until_s or silence.addresses != hash(record.addresses)

    def _times_silent(self, peer_id: str) -> int:
        silence = self._silent.get(peer_id)
        return 0 if silence is None else silence.times

    def _drawn(self, records: Sequence[CapabilityRecord], count: int) -> list[CapabilityRecord]:
        unasked = [record for record in records if record.peer_id not in self._silent]
        drawn = self._rng.sample(unasked, min(len(unasked), LOTS))
        if len(drawn) < count:
            asked = [record for record in records if record.peer_id in self._silent]
            drawn += self._rng.sample(asked, min(len(asked), count - len(drawn)))
        return _in_turn(drawn, lambda record: subnets_of(record.addresses), self._rng)[:count]


def _in_turn(items: Sequence[T], subnets: Callable[[T], frozenset[str]], rng: random.Random) -> list[T]:
    """Shuffled, and the first of each subnet before the second of any."""
    shuffled = rng.sample(items, len(items))
    before: Counter[str] = Counter()
    turns: list[tuple[int, T]] = []
    for item in shuffled:
        names = subnets(item)
        turns.append((max((before[name] for name in names), default=0), item))
        before.update(names)
    return [item for _, item in sorted(turns, key=lambda turn: turn[0])]
