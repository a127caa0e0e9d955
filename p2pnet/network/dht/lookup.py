"""Decides which peers a Kademlia lookup asks for some keys, and when it stops. Pure but for the asking.

Maymounkov and Mazières 2002, section 2.3, with two changes against liars. A peer that does not answer takes nobody's
place among the nearest, so invented ids hide no one; and the peers that we know ourselves are asked whatever others
say. Knows nothing of how peers are asked, nor of what they hold.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from p2pnet.network.dht.messages import MAX_NEAREST

logger = logging.getLogger(__name__)

BEAM = 10
"""How many of the nearest peers must have answered before a key counts as looked up: twice the replicas of a value."""

PARALLEL = 8
"""Peers asked at the same time."""

MAX_ASKED_PER_KEY = 40
"""Peers asked, times the keys of a lookup: those in the beam, some on the way there, and one liar's inventions."""

LOOKUP_TIMEOUT_S = 10.0
"""After this, what was found has to do: three peers in a row that do not answer."""

PeerT = TypeVar("PeerT")
ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class PeerReply(Generic[PeerT, ValueT]):
    """What one peer says of some keys: values that it holds, how many those are in all, where it says so, and the peers
    it knows near each key, by node id."""

    values: Mapping[int, Sequence[ValueT]] = field(default_factory=dict)
    nearest: Mapping[int, Mapping[int, PeerT]] = field(default_factory=dict)
    held: Mapping[int, int] = field(default_factory=dict)


Ask = Callable[[PeerT, Sequence[int]], Awaitable[PeerReply[PeerT, ValueT] | None]]
"""Ask one peer for some keys. None when it does not answer, which is also what is made of anything that it raises."""


class Lookup(Generic[PeerT, ValueT]):
    """One lookup of some keys. Node ids and keys are integers of the same space; distance is XOR."""

    def __init__(self, keys: Sequence[int], known: Mapping[int, PeerT], own_id: int) -> None:
        self._keys = keys
        self._own_id = own_id
        self._peers = {node: peer for node, peer in known.items() if node != own_id}
        self._first = set(self._peers)
        self._asked: set[int] = set()
        self._answered: set[int] = set()
        self._silent: set[int] = set()
        self._values: dict[int, dict[ValueT, None]] = {key: {} for key in keys}
        self._held: dict[int, dict[int, int]] = {key: {} for key in keys}

    async def run(self, ask: Ask[PeerT, ValueT], timeout_s: float = LOOKUP_TIMEOUT_S) -> None:
        """Ask until the nearest have been asked, or until a limit."""
        try:
            async with asyncio.timeout(timeout_s):
                while batch := self._next():
                    self._asked.update(batch)
                    await asyncio.gather(*(self._visit(node, ask) for node in batch))
        except TimeoutError:
            return

    def values(self, key: int) -> list[ValueT]:
        """What was found under a key, each once, in no order."""
        return list(self._values[key])

    def nearest(self, key: int, count: int) -> list[PeerT]:
        """The peers that have answered and are nearest to a key, nearest first."""
        return [self._peers[node] for node in heapq.nsmallest(count, self._answered, key=key.__xor__)]

    def held(self, key: int, count: int) -> int:
        """How many values there are under a key, as the `count` nearest say that say anything: the middle one of them,
        and the lesser of two, so that it takes half of them to lie."""
        said = self._held[key]
        nearest = sorted(said[node] for node in heapq.nsmallest(count, said, key=key.__xor__))
        return nearest[(len(nearest) - 1) // 2] if nearest else 0

    def _next(self) -> list[int]:
        """Who to ask now: those we knew before, then the nearest to any key that others have named."""
        room = min(PARALLEL, MAX_ASKED_PER_KEY * len(self._keys) - len(self._asked))
        waiting = [node for node in self._first if node not in self._asked]
        if not waiting:
            answering = [node for node in self._peers if node not in self._silent]
            beams = (heapq.nsmallest(BEAM, answering, key=key.__xor__) for key in self._keys)
            nearest = dict.fromkeys(node for beam in beams for node in beam)
            waiting = [node for node in nearest if node not in self._asked]
        return waiting[:room]

    async def _visit(self, node: int, ask: Ask[PeerT, ValueT]) -> None:
        try:
            reply = await ask(self._peers[node], self._keys)
        except Exception as error:  # the edge: one peer's answer is that peer's alone
            logger.debug("what a peer answered could not be read: %r", error)
            reply = None
        if reply is None:
            self._silent.add(node)
            return
        self._answered.add(node)
        for key in self._keys:
            if key in reply.held:
                self._held[key][node] = reply.held[key]
            self._values[key].update(dict.fromkeys(reply.values.get(key, ())))
            for near, peer in list(reply.nearest.get(key, {}).items())[:MAX_NEAREST]:
                if near != self._own_id:
                    self._peers.setdefault(near, peer)
