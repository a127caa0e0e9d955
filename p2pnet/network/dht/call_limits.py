"""Decides how many calls of the DHT each peer, and each group of addresses, may make here. Data and the time only.

By peer alone would bound nobody, since identities are free; by address alone would let one peer take what its
neighbours behind the same NAT need.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from p2pnet.rate_limit import RateLimit

MAX_CALLS = 512
"""At the same time, of all peers."""

MAX_CALLS_PER_PEER = 64
"""At the same time. A gateway asks for the 33 keys of the directory at once."""

MAX_CALLS_PER_GROUP = 128
"""At the same time, of peers whose addresses belong together."""

CALLS_PER_MINUTE_PER_PEER = 6_000
"""A gateway asks for 33 keys every 2 s, 1,000 times in a minute, and a worker stores some sixty values then."""

CALLS_PER_MINUTE_PER_GROUP = 15_000
"""A call costs some 0.5 ms: this is an eighth of one core."""

BYTES_PER_MINUTE_PER_PEER = 240 << 20
"""Of answers: the records of 5,000 workers every 2 s."""

BYTES_PER_MINUTE_PER_GROUP = 480 << 20

MAX_WAITING_BYTES = 64 << 20
"""Of answers that are being written, of all peers: callers may be slow to read."""

MAX_WAITING_BYTES_PER_GROUP = 16 << 20
"""Of answers that are being written to one group: four of the largest."""


@dataclass(frozen=True)
class Caller:
    """Who calls: a peer id, and the group of addresses that its connection comes from."""

    peer_id: str
    group: str


class CallLimits:
    """Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._at_once: Counter[str] = Counter()
        self._waiting_bytes: Counter[str] = Counter()
        self._calls_of_peers = RateLimit(CALLS_PER_MINUTE_PER_PEER)
        self._calls_of_groups = RateLimit(CALLS_PER_MINUTE_PER_GROUP)
        self._bytes_of_peers = RateLimit(BYTES_PER_MINUTE_PER_PEER)
        self._bytes_of_groups = RateLimit(BYTES_PER_MINUTE_PER_GROUP)

    def enter(self, caller: Caller, now_s: float) -> bool:
        """Whether a call may begin. If so, `leave` ends it."""
        peer, group = caller.peer_id, caller.group
        if (
            self._calls_of_peers.is_spent(peer, now_s)
            or self._calls_of_groups.is_spent(group, now_s)
            or self._bytes_of_peers.is_spent(peer, now_s)
            or self._bytes_of_groups.is_spent(group, now_s)
            or self._at_once[_peer(caller)] >= MAX_CALLS_PER_PEER
            or self._at_once[_group(caller)] >= MAX_CALLS_PER_GROUP
        ):
            return False
        self._calls_of_peers.spend(peer, now_s)
        self._calls_of_groups.spend(group, now_s)
        self._count(caller, 1)
        return True

    def leave(self, caller: Caller) -> None:
        self._count(caller, -1)

    def begin_answer(self, caller: Caller, size: int, now_s: float) -> bool:
        """Whether an answer of this size may be written now. If so, `end_answer` ends it."""
        if self._waiting_bytes[_ALL] + size > MAX_WAITING_BYTES:
            return False
        if self._waiting_bytes[_group(caller)] + size > MAX_WAITING_BYTES_PER_GROUP:
            return False
        self._bytes_of_peers.spend(caller.peer_id, now_s, size)
        self._bytes_of_groups.spend(caller.group, now_s, size)
        self._count_bytes(caller, size)
        return True

    def end_answer(self, caller: Caller, size: int) -> None:
        self._count_bytes(caller, -size)

    def calls_of_group(self, group: str) -> int:
        """How many are under way."""
        return self._at_once[f"group {group}"]

    @property
    def calls(self) -> int:
        """How many are under way, of all peers."""
        return self._at_once[_ALL]

    def _count(self, caller: Caller, change: int) -> None:
        for name in (_ALL, _peer(caller), _group(caller)):
            _add(self._at_once, name, change)

    def _count_bytes(self, caller: Caller, change: int) -> None:
        for name in (_ALL, _group(caller)):
            _add(self._waiting_bytes, name, change)


_ALL = "all"


def _peer(caller: Caller) -> str:
    return f"peer {caller.peer_id}"


def _group(caller: Caller) -> str:
    return f"group {caller.group}"


def _add(counter: Counter[str], name: str, change: int) -> None:
    counter[name] += change
    if not counter[name]:
        del counter[name]
