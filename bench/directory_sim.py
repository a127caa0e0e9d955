"""What the directory costs, and how soon it shows who comes and goes, in networks of up to ten thousand workers.

    python -m bench.directory_sim [--workers N]... [--gateways N] [--seconds S] [--seed N] [--json]

Simulated: the real nodes of the DHT, announcers, directories, peer tables, probers and watches in one process, on a
clock that jumps. Every call is the bytes that it would be. Half of the workers leave within an hour, half of those
without a word; each is replaced. A fifth of them can be dialled, and store. A newcomer brings a model that a gateway
waits for; who dies has served the gateway before, and its streams end. The CPU of storing peers is what their answers
take on this machine. A thousand workers take some minutes, ten thousand half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from bench.directory.simulated_fleet import (
    MODELS_PER_GATEWAY,
    MODELS_PER_WORKER,
    SimulatedGateway,
    SimulatedWorker,
    drawn,
    model_names,
)
from bench.directory.simulated_loop import SimulatedLoop
from bench.directory.simulated_network import Counts, SimulatedWorld, core_share
from p2pnet.network.dht.calls import FIND

LEAVING_PER_S = math.log(2) / 3600
"""Of one worker: half leave within an hour."""
WARM_UP_S = 60.0
"""All announce themselves within this."""
SETTLING_S = 20.0
"""Gateways begin this long before anything is counted."""
EVENTS = 8
"""Newcomers that are waited for, and deaths of workers in use: one of each for a gateway, at the same time."""
IN_USE_S = 3.0
"""How long a worker has been in use at least, before it dies."""
PATIENCE_S = 60.0
STEP_S = 0.1


@dataclass(frozen=True)
class Figures:
    """Of one network. Calls count streams, too; seconds are medians and the longest, None where it never was."""

    workers: int
    gateways: int
    gateway_calls_per_s: float
    gateway_kb_per_s: float
    gateway_most_calls_per_s: float
    gateway_knows: float
    gateway_in_use: float
    worker_calls_per_s: float
    worker_kb_per_s: float
    hottest_stores_per_s: float
    hottest_finds_per_s: float
    hottest_kb_per_s: float
    hottest_core: float
    newcomer_s: float | None
    newcomer_longest_s: float | None
    dead_s: float | None
    dead_longest_s: float | None
    took_s: float


class Simulation:
    """One network from its start to its figures."""

    def __init__(self, workers: int, gateways: int, seconds: float, seed: int, loop: SimulatedLoop) -> None:
        self._world = SimulatedWorld(seed, loop)
        self._count = workers
        self._seconds = seconds
        self._models = model_names(workers)
        self._workers: list[SimulatedWorker] = []
        self._gateways = [SimulatedGateway(self._world, self._drawn(MODELS_PER_GATEWAY)) for _ in range(gateways)]

    async def run(self) -> Figures:
        began_s = time.perf_counter()
        world = self._world
        self._workers = [SimulatedWorker(world, self._drawn(MODELS_PER_WORKER)) for _ in range(self._count)]
        starting = [
            asyncio.create_task(self._start(worker, world.rng.uniform(0, WARM_UP_S))) for worker in self._workers
        ]
        await asyncio.gather(*starting)
        for gateway in self._gateways:
            gateway.start()
        await asyncio.sleep(SETTLING_S)
        churn = asyncio.create_task(self._churn())
        for peer in world.peers.values():
            peer.counts.clear()
        await asyncio.sleep(self._seconds)
        counts = {peer_id: peer.counts for peer_id, peer in world.peers.items()}
        figures = self._figures(list(counts.values()))
        affected = self._gateways[:EVENTS]
        newcomers = await asyncio.gather(*map(self._newcomer, affected))
        dead = await asyncio.gather(*map(self._dead, affected))
        churn.cancel()
        await asyncio.gather(*(gateway.stop() for gateway in self._gateways))
        return Figures(
            **figures,
            newcomer_s=_median(newcomers),
            newcomer_longest_s=_longest(newcomers),
            dead_s=_median(dead),
            dead_longest_s=_longest(dead),
            took_s=time.perf_counter() - began_s,
        )

    def _figures(self, counts: Sequence[Counts]) -> dict[str, float]:
        seconds = self._seconds
        gateways = [gateway.peer.counts for gateway in self._gateways]
        workers = [worker.peer.counts for worker in self._workers if worker.peer.peer_id in self._world.peers]
        calls = [(each.calls + each.streams) / seconds for each in gateways]
        return {
            "workers": self._count,
            "gateways": len(gateways),
            "gateway_calls_per_s": statistics.mean(calls),
            "gateway_most_calls_per_s": max(calls),
            "gateway_kb_per_s": statistics.mean(each.bytes for each in gateways) / seconds / 1000,
            "gateway_knows": statistics.mean(len(gateway.table.workers) for gateway in self._gateways),
            "gateway_in_use": statistics.mean(len(gateway.in_use) for gateway in self._gateways),
            "worker_calls_per_s": statistics.mean(each.calls for each in workers) / seconds,
            "worker_kb_per_s": statistics.mean(each.bytes for each in workers) / seconds / 1000,
            "hottest_stores_per_s": max(each.values_stored for each in counts) / seconds,
            "hottest_finds_per_s": max(each.asked[FIND] for each in counts) / seconds,
            "hottest_kb_per_s": max(each.answered_bytes for each in counts) / seconds / 1000,
            "hottest_core": max(core_share(each, seconds) for each in counts),
        }

    def _drawn(self, count: int) -> list[str]:
        return drawn(self._models, count, self._world.rng)

    async def _start(self, worker: SimulatedWorker, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await worker.start()

    async def _churn(self) -> None:
        """One goes, another one comes."""
        rng = self._world.rng
        while True:
            await asyncio.sleep(rng.expovariate(LEAVING_PER_S * self._count))
            index = rng.randrange(len(self._workers))
            gone = self._workers[index]
            self._workers[index] = SimulatedWorker(self._world, self._drawn(MODELS_PER_WORKER))
            await (gone.vanish() if rng.random() < 0.5 else gone.leave())
            asyncio.create_task(self._workers[index].start())  # noqa: RUF006

    async def _newcomer(self, gateway: SimulatedGateway) -> float | None:
        """Seconds from the start of its announcement until the gateway that waits for it may send it requests."""
        model = f"new-for-{gateway.peer.peer_id}"
        gateway.waits_for = [model]
        await asyncio.sleep(self._world.rng.uniform(3, 5))
        worker = SimulatedWorker(self._world, [model])
        began_s = self._world.now_s()
        starting = asyncio.create_task(worker.start())
        found_s = await self._until(lambda: gateway.runs(model), began_s)
        await starting
        gateway.waits_for = []
        return found_s

    async def _dead(self, gateway: SimulatedGateway) -> float | None:
        """Seconds from the end of a worker in use until it is sent no requests any more."""
        candidates = {worker.peer.peer_id: worker for worker in self._workers}
        in_use = [each for each in gateway.in_use if each.peer_id in candidates]
        if not in_use:
            return None
        victim = candidates[self._world.rng.choice(in_use).peer_id]
        await asyncio.sleep(IN_USE_S)
        began_s = self._world.now_s()
        await victim.vanish()
        return await self._until(lambda: not gateway.uses(victim.peer.peer_id), began_s)

    async def _until(self, is_so: Callable[[], bool], began_s: float) -> float | None:
        while not is_so():
            if self._world.now_s() - began_s > PATIENCE_S:
                return None
            await asyncio.sleep(STEP_S)
        return self._world.now_s() - began_s


def _median(found: Sequence[float | None]) -> float | None:
    known = [each for each in found if each is not None]
    return statistics.median(known) if known else None


def _longest(found: Sequence[float | None]) -> float | None:
    known = [each for each in found if each is not None]
    return max(known) if len(known) == len(found) else None


def simulate(workers: int, gateways: int, seconds: float, seed: int) -> Figures:
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SimulatedLoop)
        return runner.run(Simulation(workers, gateways, seconds, seed, loop).run())


def shown(found: Sequence[Figures]) -> Table:
    """A column for each network."""
    table = Table("of one network", *(f"{each.workers:,} workers" for each in found))
    for name in asdict(found[0]):
        if name != "workers":
            values = [getattr(each, name) for each in found]
            table.add_row(name, *("-" if value is None else f"{value:,.3g}" for value in values))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, action="append", help="of one network; may be given again: 100, 1000")
    parser.add_argument("--gateways", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated, in which calls are counted")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = options.workers or [100, 1000]
    found = [simulate(size, options.gateways, options.seconds, options.seed) for size in sizes]
    if options.json:
        print(json.dumps([asdict(each) for each in found]))
    else:
        Console().print(shown(found))


if __name__ == "__main__":
    main()
