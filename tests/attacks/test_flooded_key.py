"""A model that an attacker has announced under thousands of identities, each from a network of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count

from bench.directory.simulated_fleet import SimulatedGateway, SimulatedWorker
from bench.directory.simulated_loop import SimulatedLoop
from bench.directory.simulated_network import SimulatedWorld
from p2pnet.identity import Identity
from p2pnet.model_shards import FULL_SHARD, shard_key, shard_on
from p2pnet.network.dht.node import REPLICAS
from p2pnet.network.interface import StoredValue, key_id
from p2pnet.records import seal
from tests.stories import address_of, capability, peer

MODEL = "sought"
NODES = 24
FOUND_WITHIN_S = 60.0
STEP_S = 0.5
SPOKEN = ("/p2pnet/generate/1", "/p2pnet/status/1", "/p2pnet/watch/1")


def identities() -> Iterator[Identity]:
    return (peer(f"invented {number}") for number in count())


def flood(world: SimulatedWorld, levels: int) -> None:
    """Fill all keys of these levels on all peers that store them."""
    free = {(level, shard): FULL_SHARD for level in range(levels) for shard in range(1 << level)}
    invented = identities()
    used = 0
    while any(free.values()):
        identity = next(invented)
        places = [(level, shard_on(level, identity.peer_id)) for level in range(levels)]
        places = [place for place in places if free[place]]
        if not places:
            continue
        used += 1
        host = f"/ip4/{20 + used // 250}.{used % 250}.0.1"
        address = address_of(identity).replace("/ip4/203.0.113.7", host)
        record = capability(identity, MODEL, issued_ms=world.now_ms(), addresses=(address,), protocols=SPOKEN)
        sealed = seal(record, identity)
        for level, shard in places:
            free[level, shard] -= 1
            key = key_id(shard_key(MODEL, level, shard))
            stored = StoredValue(key, identity.peer_id, sealed, record.expires_ms)
            nearest = sorted(world.nodes, key=lambda each: each.node.own_id ^ int.from_bytes(key, "big"))
            for node in nearest[:REPLICAS]:
                assert node.node._storage.store(stored, host, world.now_ms())


async def seconds_until_found(loop: SimulatedLoop, levels: int, seed: int) -> float:
    """From the start of an honest worker, during the flood, until a gateway that waits for its model may use it."""
    world = SimulatedWorld(seed, loop)
    nodes = [world.join(is_client=False) for _ in range(NODES)]
    for node in nodes:
        world.introduce(node)
    flood(world, levels)
    gateway = SimulatedGateway(world, ())
    gateway.waits_for = [MODEL]
    gateway.start()
    await asyncio.sleep(10)
    assert not gateway.runs(MODEL)
    worker = SimulatedWorker(world, [MODEL])
    began_s = world.now_s()
    await worker.start()
    for _ in range(round(FOUND_WITHIN_S / STEP_S)):
        if gateway.runs(MODEL):
            break
        await asyncio.sleep(STEP_S)
    found_s = world.now_s() - began_s
    await gateway.stop()
    await worker.vanish()
    return found_s


def test_an_honest_worker_that_comes_during_a_flood_is_found_within_a_minute() -> None:
    """More than five hundred invented workers on the model's own key, and as many on each of the two below: the honest
    one goes where there is room, and whoever waits for it looks there."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SimulatedLoop)
        assert runner.run(seconds_until_found(loop, levels=2, seed=1)) < FOUND_WITHIN_S
