"""Workers that guard themselves, as real processes: two gateways' peers on one worker, one that is blocked, a list of
those that are allowed, limits of size and time; and what the workers say of themselves meanwhile."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from p2pnet.client import generate, status
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import Busy, FeatureMissing, NotAllowed, P2PNetError
from p2pnet.identity import Identity
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, TextPrompt
from p2pnet.peer import Peer
from p2pnet.status_messages import Status
from tests.e2e.scripted import scripted
from tests.processes import Process, Start, processes, run
from tests.stories import peer

pytestmark = pytest.mark.timeout(300)

FIRST, SECOND, BLOCKED = (peer(f"gateway {name}") for name in ("first", "second", "blocked"))
LONG = 3000
"""Tokens of an answer that is still running when a few other requests have been answered."""

OPEN = ("--max-concurrency", "2", "--block-gateway", BLOCKED.peer_id, "--max-request-bytes", "20kB")
METRICS = ("--metrics-port", "0")
VECTORS = {"model": "vectors", "dimensions": 4}
CLOSED = ("--allow-gateway", FIRST.peer_id, "--max-request-seconds", "1")

Events = AsyncGenerator[Accepted | TextDelta | Finished, None]


@dataclass(frozen=True)
class Swarm:
    """A bootstrap and two workers: one is open to all but one, the other one closed to all but one."""

    start: Start
    address: str
    open: Process
    closed: Process


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("guard") as start:
        address = start.bootstrap().ready.address
        workers = [
            scripted(start, address, name, "so " * LONG, *flags, beside=[VECTORS])
            for name, flags in (("open", (*OPEN, *METRICS)), ("closed", CLOSED))
        ]
        for worker in workers:
            worker.wait_ready()
        yield Swarm(start, address, *workers)


class Gateway:
    """A peer that asks workers as gateways do."""

    def __init__(self, joined: Peer) -> None:
        self.peer = joined

    def ask(self, worker: Process, tokens: int = 1, text: str = "Hello") -> Events:
        request = GenerateRequest("e2e", worker.name, TextPrompt(text), max_tokens=tokens, ignore_eos=True)
        return generate(self.peer.network, worker.ready.peer_id, request, worker.ready.addresses)

    async def begin(self, worker: Process) -> Events:
        """A long answer of which some has come."""
        events = self.ask(worker, LONG)
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
        return events

    async def refusal(self, worker: Process, text: str = "Hello") -> P2PNetError | None:
        """Why a short request is not served; None when it is."""
        try:
            assert isinstance([event async for event in self.ask(worker, text=text)][-1], Finished)
        except P2PNetError as error:
            return error
        return None

    async def probe(self, worker: Process) -> Status:
        return await status(self.peer.network, worker.ready.peer_id, worker.ready.addresses, timeout_s=10)


@asynccontextmanager
async def joined(swarm: Swarm, folder: Path, identity: Identity) -> AsyncIterator[Gateway]:
    key = folder / f"{identity.peer_id}.key"
    identity.save(key)
    config = NetworkConfig(key, LOOPBACK_LISTEN, initial_peers=(swarm.address,), is_client=True)
    member = await Peer.join(config)
    try:
        yield Gateway(member)
    finally:
        await member.close()


def metrics_of(worker: Process) -> dict[tuple[str, ...], float]:
    (url,) = re.findall(r"metrics are at (http://\S+)", worker.log)
    page = httpx.get(url, timeout=30).text
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_a_probe_tells_of_the_worker_also_when_it_is_full(swarm: Swarm, tmp_path: Path) -> None:
    async with joined(swarm, tmp_path, FIRST) as first:
        # Given an idle worker, whose record a gateway has found.
        (record,) = await first.peer.directory.workers_of("open")
        assert "/p2pnet/status/1" in record.protocols
        idle = await first.probe(swarm.open)
        assert idle.is_serving
        assert (idle.load.running, idle.load.slots) == (0, 4), "two of each model"
        assert idle.record_sequence >= record.sequence
        # When all of its slots are taken, then it says so as readily.
        held = [await first.begin(swarm.open) for _ in range(2)]
        times_s = []
        for _ in range(20):
            began_s = time.perf_counter()
            full = await first.probe(swarm.open)
            times_s.append(time.perf_counter() - began_s)
        assert full.load.running == 2
        assert sorted(times_s)[10] < 0.5, "milliseconds, on a machine that has time"
        found = metrics_of(swarm.open)
        assert found["p2pnet_worker_num_requests_running",] == 2.0
        assert found["p2pnet_worker_is_serving",] == 1.0
        for events in held:
            await events.aclose()


async def test_two_gateways_share_a_worker(swarm: Swarm, tmp_path: Path) -> None:
    async with joined(swarm, tmp_path, FIRST) as first, joined(swarm, tmp_path, SECOND) as second:
        # Given a gateway that was alone, and has both slots.
        held = [await first.begin(swarm.open) for _ in range(2)]
        # When another one comes, then it is refused: what runs is not cut.
        assert isinstance(await second.refusal(swarm.open), Busy)
        # But the slot that becomes free is not the first one's any more.
        await held[0].aclose()
        deadline_s = time.monotonic() + 30
        while "share" not in str(refusal := await first.refusal(swarm.open)):
            assert isinstance(refusal, Busy)
            assert time.monotonic() < deadline_s, "its slot is free within a step"
        theirs = await second.begin(swarm.open)
        assert isinstance(await first.refusal(swarm.open), Busy)
        for events in (held[1], theirs):
            assert isinstance(await anext(events), TextDelta), "both go on"
            await events.aclose()


async def test_who_is_blocked_is_not_served_and_learns_nothing(swarm: Swarm, tmp_path: Path) -> None:
    async with joined(swarm, tmp_path, BLOCKED) as blocked:
        assert isinstance(await blocked.refusal(swarm.open), NotAllowed)
        assert isinstance(await blocked.refusal(swarm.open, text="long " * 100_000), NotAllowed)
        with pytest.raises(NotAllowed):
            await blocked.probe(swarm.open)
    assert metrics_of(swarm.open)["p2pnet_worker_request_failure_total", "not_allowed", "/p2pnet/status/1"] == 1.0


async def test_only_who_is_allowed_is_served_and_for_so_long(swarm: Swarm, tmp_path: Path) -> None:
    async with joined(swarm, tmp_path, FIRST) as first, joined(swarm, tmp_path, SECOND) as second:
        assert isinstance(await second.refusal(swarm.closed), NotAllowed)
        assert await first.refusal(swarm.closed) is None
        tokens = 0
        with pytest.raises(Busy, match="this worker gives 1 s to one request"):
            async for event in first.ask(swarm.closed, LONG):
                tokens += len(event.token_ids) if isinstance(event, TextDelta) else 0
        assert 0 < tokens < LONG
        assert (await first.probe(swarm.closed)).load.running == 0


async def test_a_request_may_be_too_large_for_this_worker_alone(swarm: Swarm, tmp_path: Path) -> None:
    async with joined(swarm, tmp_path, FIRST) as first:
        refusal = await first.refusal(swarm.open, text="long " * 100_000)
        assert isinstance(refusal, FeatureMissing)
        assert refusal.may_retry
        assert "20000 bytes" in refusal.message
        assert await first.refusal(swarm.open) is None


def test_a_port_for_metrics_that_is_taken(swarm: Swarm) -> None:
    taken = re.findall(r"metrics are at http://127.0.0.1:(\d+)", swarm.open.log)[0]
    flags = ("--metrics-port", taken, "--initial-peers", swarm.address)
    outcome = run("serve", "--model", "tiny", *flags, root=swarm.start.root)
    assert outcome.status == 1
    assert f"The metrics cannot be served on 127.0.0.1, port {taken}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_worker_with_metrics_leaves_nothing(swarm: Swarm) -> None:
    for worker in (swarm.open, swarm.closed):
        worker.send(signal.SIGTERM)
    for worker in (swarm.open, swarm.closed):
        assert worker.wait() == 0
        assert worker.leftovers() == []
