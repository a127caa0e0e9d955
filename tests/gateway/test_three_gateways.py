"""Three gateways on the same workers, with nothing shared: what each gets when all of them want more than there is."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack

from bench.directory.simulated_loop import SimulatedLoop
from gateway.dispatch.dispatcher import DispatchConfig
from gateway.interface import Caller
from gateway.membership.table import PeerTable
from gateway.observability.reports import RequestReport
from gateway.serving import Serving, ServingConfig
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory, validator
from p2pnet.messages import Finished
from p2pnet.network.memory import MemoryWorld
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, ask, peer

GATEWAYS = 3
CLIENTS = 8
"""Of each gateway, all the time: twenty-four for twelve slots."""

WORKERS = 3
SLOTS = 4
REQUESTS = 600


def test_three_gateways_that_know_nothing_of_one_another_get_a_fair_share_each() -> None:
    """Time is simulated: how busy this machine is says nothing of who gets what."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(share_three_workers())


async def share_three_workers() -> None:
    """Given three workers that are always full, when three gateways keep eight requests each under way, then of the
    requests served each gateway has its third, none fails, and no worker is left out."""
    clock = ManualClock()
    world = MemoryWorld(validator(clock))
    reports: list[RequestReport] = []
    served: Counter[int] = Counter()
    async with AsyncExitStack() as running:
        for number in range(WORKERS):
            identity = peer(f"worker {number}")
            backend = EchoBackend(EchoOptions(says="numbers", delay_s=0.001))
            config = WorkerConfig(max_concurrency=SLOTS, drain_s=0)
            worker = await Worker.start(world.join(identity.peer_id), identity, [backend], clock, config)
            running.push_async_callback(worker.stop)
        gateways = [await _gateway(world, clock, number, reports, running) for number in range(GATEWAYS)]

        async def client(number: int) -> None:
            while served.total() < REQUESTS:
                events = [event async for event in gateways[number].dispatcher.run(ask(max_tokens=5), Caller("one"))]
                assert isinstance(events[-1], Finished)
                served[number] += 1

        await asyncio.gather(*(client(number) for number in range(GATEWAYS) for _ in range(CLIENTS)))
    fair = served.total() / GATEWAYS
    assert all(0.7 * fair <= served[number] <= 1.3 * fair for number in range(GATEWAYS)), served
    assert {report.outcome for report in reports} == {"length"}
    answered = Counter(report.attempts[-1].worker for report in reports)
    assert len(answered) == WORKERS and min(answered.values()) > 0.5 * served.total() / WORKERS


async def _gateway(
    world: MemoryWorld, clock: ManualClock, number: int, reports: list[RequestReport], running: AsyncExitStack
) -> Serving:
    network = world.join(peer(f"gateway {number}").peer_id)
    now_s = asyncio.get_running_loop().time
    table = PeerTable(Directory(network, clock), now_s, lambda: clock() / 1000)
    config = ServingConfig(dispatch=DispatchConfig(wait_s=60))
    serving = Serving(network, table, config, reports.append, rng=random.Random(number), now_s=now_s)
    await running.enter_async_context(serving)
    await table.refresh()
    return serving
