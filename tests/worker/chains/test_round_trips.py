"""What a chain measures of the way to its stages when it is opened."""

from __future__ import annotations

from p2pnet.worker.chains.chain import Chain
from p2pnet.worker.chains.choosing import Leg
from tests.stories import DIGEST, peer
from tests.worker.stages.stage_swarm import stage_swarm


async def test_the_round_trip_to_each_stage_is_measured() -> None:
    async with stage_swarm("a", "b") as swarm:
        names = [peer(name).peer_id for name in "ab"]
        network = swarm.world.join(peer("driver").peer_id)
        swarm.closing.push_async_callback(network.kill)
        legs = [Leg(names[0], 0, 2), Leg(names[1], 2, 4)]
        chain = await Chain.open(network, DIGEST, legs, lambda peer_id: (), lambda tokens: 10.0)
        assert sorted(chain.round_trips_ms) == sorted(names)
        assert all(0.0 < took_ms < 10_000.0 for took_ms in chain.round_trips_ms.values())
        await chain.close()
