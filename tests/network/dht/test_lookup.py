"""The lookup on a simulated network of seeded node ids, honest and hostile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from p2pnet.network.dht.lookup import BEAM, MAX_ASKED_PER_KEY, Lookup, PeerReply

BITS = 160
REPLICAS = 5
NEIGHBOURS = 40


class Swarm:
    """Honest nodes that know their neighbourhood and some others, and hold values on the nodes nearest to each key."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self.rng = rng
        self.nodes = [rng.getrandbits(BITS) for _ in range(size)]
        self.known = {node: self._neighbours(node) for node in self.nodes}
        self.held: dict[int, dict[int, list[str]]] = {node: {} for node in self.nodes}
        self.asked: list[int] = []

    def store(self, key: int, value: str) -> None:
        for node in sorted(self.nodes, key=key.__xor__)[:REPLICAS]:
            self.held[node].setdefault(key, []).append(value)

    async def ask(self, peer: int, keys: Sequence[int]) -> PeerReply[int, str] | None:
        self.asked.append(peer)
        if peer not in self.known:
            return None
        nearest = {key: {n: n for n in sorted(self.known[peer], key=key.__xor__)[:20]} for key in keys}
        return PeerReply({key: self.held[peer].get(key, []) for key in keys}, nearest)

    def _neighbours(self, node: int) -> list[int]:
        """As in Kademlia's buckets: all that are near, and a few of each share of what is far."""
        near = sorted(self.nodes, key=node.__xor__)[1:NEIGHBOURS]
        return [*near, *self.rng.sample(self.nodes, min(NEIGHBOURS, len(self.nodes)))]


async def found(swarm: Swarm, keys: Sequence[int], start: Sequence[int]) -> dict[int, set[str]]:
    lookup: Lookup[int, str] = Lookup(keys, {node: node for node in start}, own_id=-1)
    await lookup.run(swarm.ask)
    return {key: set(lookup.values(key)) for key in keys}


@pytest.mark.parametrize("size", [1, 2, 10, 100, 2000])
async def test_values_are_found_from_any_starting_point(size: int) -> None:
    rng = random.Random(size)
    swarm = Swarm(size, rng)
    keys = [rng.getrandbits(BITS) for _ in range(4)]
    for key in keys:
        swarm.store(key, f"value of {key}")
    start = rng.sample(swarm.nodes, min(3, size))
    assert await found(swarm, keys, start) == {key: {f"value of {key}"} for key in keys}
    assert len(swarm.asked) == len(set(swarm.asked)) <= MAX_ASKED_PER_KEY * 4


async def test_nobody_known_finds_nothing() -> None:
    assert await found(Swarm(3, random.Random(1)), [7], []) == {7: set()}


async def test_invented_neighbours_hide_nobody() -> None:
    """A liar names nodes that do not exist, nearer to the key than any other: they must not push out the honest."""
    rng = random.Random(2)
    swarm = Swarm(30, rng)
    key = rng.getrandbits(BITS)
    swarm.store(key, "value")
    liar = swarm.nodes[0]
    swarm.held[liar].clear()
    swarm.known[liar] = [key ^ (i + 1) for i in range(1000)]
    start = [liar, *swarm.nodes[1:3]]
    assert await found(swarm, [key], start) == {key: {"value"}}
    assert len(swarm.asked) <= MAX_ASKED_PER_KEY


async def test_those_we_know_are_asked_although_a_liar_names_many_that_answer() -> None:
    rng = random.Random(3)
    swarm = Swarm(BEAM, rng)
    key = rng.getrandbits(BITS)
    swarm.store(key, "value")
    puppets = [key ^ (i + 1) for i in range(BEAM)]
    for puppet in puppets:
        swarm.known[puppet] = puppets
        swarm.held[puppet] = {}
    swarm.known[swarm.nodes[0]] = puppets
    assert await found(swarm, [key], swarm.nodes) == {key: {"value"}}


async def test_peers_that_never_answer_end_with_the_deadline() -> None:
    async def silence(peer: int, keys: Sequence[int]) -> PeerReply[int, str] | None:
        await asyncio.Event().wait()
        return None

    lookup: Lookup[int, str] = Lookup([1], {5: 5}, own_id=-1)
    await lookup.run(silence, timeout_s=0.01)
    assert lookup.values(1) == []


async def test_our_own_id_is_never_asked() -> None:
    swarm = Swarm(5, random.Random(4))
    lookup: Lookup[int, str] = Lookup([1], {node: node for node in swarm.nodes}, own_id=swarm.nodes[0])
    await lookup.run(swarm.ask)
    assert swarm.nodes[0] not in swarm.asked
