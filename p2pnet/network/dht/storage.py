"""Stores values for other peers, until they expire, and bounds what each of them may keep here.

Knows nothing of what a value means: who stores has had it checked. Times are milliseconds since 1970, and passed in.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from p2pnet.network.dht.values import MAX_VALUES_PER_KEY
from p2pnet.network.interface import StoredValue

MAX_VALUES = 1 << 16
"""Of all peers. The largest take 4 KiB each, a usual one 600 bytes."""

MAX_BYTES = 64 << 20
"""Of all values: a peer that serves others' directory must not feel it."""

MAX_VALUES_PER_PEER = 128
"""A worker's record lies on a key for each of its 32 models, and for each of those that it has just stopped running,
and on two more."""

MAX_VALUES_PER_GROUP = 1 << 12
"""From one group of addresses: a hundred workers behind one address, with some models each."""

MAX_VALUES_PER_KEY_AND_GROUP = MAX_VALUES_PER_KEY // 3
"""Of one key's, from one group of addresses: whoever floods a key from one network leaves room for others."""

MAX_TOLD_VALUES = 32
"""Of one key, in one answer: from the five nodes and more that store a key, a reader has some hundred and fifty of what
lies there, and others with its next look. More would be read by every gateway, and used by none."""

MAX_TOLD_BYTES = 32 << 10
"""Of them: fifty usual records. MAX_KEYS times as much fits one answer, with the nodes that it names."""

_OVERHEAD_BYTES = 256
"""What a value takes beside its own bytes."""

_Place = tuple[bytes, str]
"""Key id and subkey."""


@dataclass(frozen=True, slots=True)
class _Held:
    stored: StoredValue
    group: str

    @property
    def size(self) -> int:
        return len(self.stored.value) + _OVERHEAD_BYTES


class _Key:
    """What lies under one key: values by subkey, and whose they are by group."""

    def __init__(self) -> None:
        self.values: dict[str, _Held] = {}
        self.groups: dict[str, list[str]] = {}

    def add(self, held: _Held) -> None:
        self.values[held.stored.subkey] = held
        self.groups.setdefault(held.group, []).append(held.stored.subkey)

    def remove(self, subkey: str) -> _Held:
        held = self.values.pop(subkey)
        self.groups[held.group].remove(subkey)
        if not self.groups[held.group]:
            del self.groups[held.group]
        return held

    def in_turn(self, count: int, rng: random.Random) -> Iterable[_Held]:
        """So many at most, by lot: the first of each group before the second of any, so that whoever fills a key from
        few networks takes little room from others in what is told of it."""
        groups = rng.sample(list(self.groups.values()), min(count, len(self.groups)))
        each = 1 if len(self.groups) >= count else count
        turns = [rng.sample(group, min(each, len(group))) for group in groups]
        for turn in range(each):
            for group in turns:
                if turn < len(group):
                    yield self.values[group[turn]]


class Storage:
    """Values by key id and subkey; a subkey is the peer id of who stores. A `group` is who shares one bound: those
    whose addresses belong together."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._values: dict[bytes, _Key] = {}
        self._expiries: list[tuple[int, bytes, str]] = []
        self._by_peer: Counter[str] = Counter()
        self._by_group: dict[str, dict[_Place, None]] = {}
        self._bytes = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def size_bytes(self) -> int:
        """About what all of it takes."""
        return self._bytes

    def store(self, stored: StoredValue, group: str, now_ms: int) -> bool:
        """Keep a value, in place of an older one. False when it has expired, when one that expires as late or later is
        here, and when there is no room for it."""
        self._drop_expired(now_ms)
        key = self._values.get(stored.key_id)
        known = None if key is None else key.values.get(stored.subkey)
        if stored.expires_ms <= now_ms or (known is not None and known.stored.expires_ms >= stored.expires_ms):
            return False
        held = _Held(stored, group)
        if known is not None:
            self._remove(stored.key_id, stored.subkey)
        elif not self._has_room(held, key or _Key()):
            return False
        self._add(held)
        return True

    def get(self, key_id: bytes, now_ms: int) -> Sequence[StoredValue]:
        """What has not expired of a key, in no order."""
        self._drop_expired(now_ms)
        key = self._values.get(key_id)
        return [] if key is None else [held.stored for held in key.values.values()]

    def count(self, key_id: bytes, now_ms: int) -> int:
        """How many values of a key have not expired."""
        self._drop_expired(now_ms)
        key = self._values.get(key_id)
        return 0 if key is None else len(key.values)

    def told(self, key_id: bytes, now_ms: int, asks: str) -> Sequence[StoredValue]:
        """What is told of a key in one answer: all of it, or a fair choice of MAX_TOLD_VALUES and MAX_TOLD_BYTES at
        most. Who asks is told its own value first: it may want to know who speaks in its name."""
        self._drop_expired(now_ms)
        key = self._values.get(key_id)
        if key is None:
            return []
        own = key.values.get(asks)
        told = {} if own is None else {asks: own.stored}
        room = MAX_TOLD_BYTES - sum(len(value.value) for value in told.values())
        for held in key.in_turn(MAX_TOLD_VALUES, self._rng):
            if held is own:
                continue
            room -= len(held.stored.value)
            if room < 0 or len(told) >= MAX_TOLD_VALUES:
                break
            told[held.stored.subkey] = held.stored
        return list(told.values())

    def _has_room(self, held: _Held, key: _Key) -> bool:
        if self._by_peer[held.stored.subkey] >= MAX_VALUES_PER_PEER:
            return False
        if len(self._by_group.get(held.group, ())) >= MAX_VALUES_PER_GROUP:
            return False
        if len(key.groups.get(held.group, ())) >= MAX_VALUES_PER_KEY_AND_GROUP:
            return False
        if len(key.values) >= MAX_VALUES_PER_KEY and not self._make_room_under(key, held):
            return False
        return (self._count < MAX_VALUES and self._bytes + held.size <= MAX_BYTES) or self._make_room(held)

    def _make_room_under(self, key: _Key, held: _Held) -> bool:
        """When a key is full, the group that has most of it gives way to the others: one of its values, by lot."""
        greatest = max(key.groups.values(), key=len)
        if len(key.groups.get(held.group, ())) + 1 >= len(greatest):
            return False
        self._remove(held.stored.key_id, self._rng.choice(greatest))
        return True

    def _make_room(self, held: _Held) -> bool:
        """When all is full, the group that has most gives way to the others: the value of it that came first."""
        greatest = max(self._by_group.values(), key=len)
        if len(self._by_group.get(held.group, ())) + 1 >= len(greatest):
            return False
        self._remove(*next(iter(greatest)))
        return self._bytes + held.size <= MAX_BYTES

    def _add(self, held: _Held) -> None:
        stored = held.stored
        self._values.setdefault(stored.key_id, _Key()).add(held)
        heapq.heappush(self._expiries, (stored.expires_ms, stored.key_id, stored.subkey))
        self._by_peer[stored.subkey] += 1
        self._by_group.setdefault(held.group, {})[stored.key_id, stored.subkey] = None
        self._bytes += held.size
        self._count += 1
        if len(self._expiries) > 2 * self._count + 64:  # those of values that were replaced
            self._expiries = [
                (each.stored.expires_ms, key_id, subkey)
                for key_id, key in self._values.items()
                for subkey, each in key.values.items()
            ]
            heapq.heapify(self._expiries)

    def _remove(self, key_id: bytes, subkey: str) -> None:
        held = self._values[key_id].remove(subkey)
        if not self._values[key_id].values:
            del self._values[key_id]
        self._by_peer[subkey] -= 1
        if not self._by_peer[subkey]:
            del self._by_peer[subkey]
        del self._by_group[held.group][key_id, subkey]
        if not self._by_group[held.group]:
            del self._by_group[held.group]
        self._bytes -= held.size
        self._count -= 1

    def _drop_expired(self, now_ms: int) -> None:
        while self._expiries and self._expiries[0][0] <= now_ms:
            expires_ms, key_id, subkey = heapq.heappop(self._expiries)
            key = self._values.get(key_id)
            held = None if key is None else key.values.get(subkey)
            if held is not None and held.stored.expires_ms == expires_ms:
                self._remove(key_id, subkey)
