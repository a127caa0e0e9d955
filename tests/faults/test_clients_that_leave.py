"""Very many clients go away at any moment, through a real gateway: the worker stops within a step, and loses no slot.

The worker runs in the tests' own process, beside the clients, so that both ends are seen by one clock.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.harness.chain_model import ChainBackend, asked
from bench.harness.storm import until, wait_for_workers
from bench.harness.timed_client import TimedStream
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, WorkerConfig
from p2pnet.messages import GenerateRequest
from p2pnet.peer import Peer, now_ms
from p2pnet.worker.serve import Worker
from tests.depth import scaled
from tests.faults.swarms import MODEL, SEED, ask_all, faults_of, logged_swarm, request, requests

pytestmark = pytest.mark.timeout(300)

CLIENTS = scaled(ci=150, deep=1000)
AT_ONCE = 32
SLOTS = 40
TOKENS = 50
TOKEN_S = 0.02
HASTY_PART = 0.2
"""So many do not wait for an answer to begin."""


@dataclass
class Ends:
    """When each generation has ended, by its prompt."""

    ended_s: dict[str, float] = field(default_factory=dict)

    def note(self, request: GenerateRequest, is_begin: bool) -> None:
        if not is_begin:
            self.ended_s[asked(request.prompt)] = time.perf_counter()


@asynccontextmanager
async def worker(address: str, folder: Path, ends: Ends) -> AsyncIterator[ChainBackend]:
    peer = await Peer.join(NetworkConfig(folder / "worker.key", LOOPBACK_LISTEN, initial_peers=(address,)))
    try:
        backend = ChainBackend(MODEL, TOKEN_S, ends.note)
        serving = await Worker.start(peer.network, peer.identity, [backend], now_ms, WorkerConfig(SLOTS, drain_s=1))
        try:
            yield backend
        finally:
            await serving.stop()
    finally:
        await peer.close()


async def test_clients_that_go_away_free_the_worker_within_a_step(tmp_path: Path) -> None:
    """Given a worker with as many slots as there are clients at once, when very many leave, before the first
    token, in mid-answer, near its end, then each generation ends as soon as it is told, and all slots can be taken
    again.

    How long word takes to get there is told by the first tokens, which go both ways: the machine may be busy.
    """
    rng = random.Random(SEED)
    ends = Ends()
    first_s: list[float] = []
    left_s: dict[str, float] = {}
    with logged_swarm() as running:
        bootstrap = running.bootstrap()
        url = str(running.gateway(bootstrap).ready["http"])
        async with worker(bootstrap.address, tmp_path, ends) as backend:
            await wait_for_workers(url, MODEL, 1)
            slots = asyncio.Semaphore(AT_ONCE)

            async def come_and_go(number: int) -> None:
                async with slots:
                    stream = await TimedStream.open(url, request(number, TOKENS, "leaver"))
                    began_s = time.perf_counter()
                    if rng.random() < HASTY_PART:
                        await asyncio.sleep(rng.uniform(0, TOKEN_S))
                    else:
                        await stream.wait_events(1)
                        first_s.append(time.perf_counter() - began_s)
                        await stream.wait_events(rng.randint(1, TOKENS))
                    left_s[f"leaver stream {number}"] = stream.close()

            async def is_idle() -> bool:
                return backend.running == 0

            await asyncio.gather(*map(come_and_go, range(CLIENTS)))
            await until(is_idle, "all generations have ended")
            answers = await ask_all(url, requests(SLOTS, TOKENS, "afterwards"))
    begun = left_s.keys() & ends.ended_s.keys()
    cut = sorted(delay_s for each in begun if (delay_s := ends.ended_s[each] - left_s[each]) > 0)
    median_s, p99_s = statistics.median(cut), cut[int(0.99 * len(cut))]
    print(f"{len(begun)} begun, first event after {statistics.median(first_s):.4f} s; {len(cut)} cut, ", end="")
    print(f"from leaving to the end: median {median_s:.4f} s, p99 {p99_s:.4f} s, longest {cut[-1]:.4f} s")
    assert len(cut) > CLIENTS / 4, "the others had their answers before they left"
    assert median_s < statistics.median(first_s) + TOKEN_S
    assert backend.running == 0
    assert faults_of(answers) == []
