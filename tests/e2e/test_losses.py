"""Clients, workers and p2pds that go away, as real processes: who notices it, and what is left behind.

Each story hurts workers of its own, under a model name of their own, or somebody who has to recover.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pnet.client import generate
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import PeerError, PeerLost
from p2pnet.messages import Accepted, Finished, TextDelta
from p2pnet.peer import Peer
from p2pnet.records import CapabilityRecord
from tests.e2e.asking import (
    exchange,
    models,
    open_stream,
    request_for,
    status_of,
    streamed,
    until,
    workers_listed,
)
from tests.e2e.scripted import TOKEN_DELAY_S, scripted
from tests.processes import POLL_S, Process, Start, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

WORDS = " ".join(f"word{number}" for number in range(3000))
"""What each scripted model says: of an answer that goes on in the wrong position it can be told."""
LONG = 3000
"""Tokens of an answer that is still running whatever a test does meanwhile, and is never waited for."""
MEDIUM = 600
"""Tokens of an answer that takes some seconds, and is waited for."""
LEISURELY_S = 0.03
"""For each token of an answer during which other commands are run."""


@dataclass
class Swarm:
    """A bootstrap, two workers of one model, and a gateway."""

    start: Start
    bootstrap: Process
    workers: list[Process]
    gateway: Process

    @property
    def address(self) -> str:
        return self.bootstrap.ready.address

    @property
    def url(self) -> str:
        assert self.gateway.ready.http is not None
        return self.gateway.ready.http

    def worker(self, model: str, *arguments: str, name: str = "", token_delay_s: float = TOKEN_DELAY_S) -> Process:
        """One more worker, which is starting."""
        return scripted(self.start, self.address, model, WORDS, *arguments, name=name, token_delay_s=token_delay_s)


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("losses") as start:
        bootstrap = start.bootstrap()
        address = bootstrap.ready.address
        workers = [scripted(start, address, "words", WORDS, name=f"words{number}") for number in (1, 2)]
        gateway = start.gateway(peer=address)
        for process in (*workers, gateway):
            process.wait_ready()
        running = Swarm(start, bootstrap, workers, gateway)
        wait_until(lambda: workers_listed(running.url, "words") == 2, "the gateway lists both workers")
        yield running


@pytest.fixture(scope="module")
def one_slot(swarm: Swarm) -> Process:
    """A worker that takes one request at a time."""
    worker = swarm.worker("one-slot", "--max-concurrency", "1")
    worker.wait_ready()
    wait_until(lambda: "one-slot" in models(swarm.url), "the gateway lists one-slot")
    return worker


@pytest.fixture
async def client(swarm: Swarm, tmp_path: Path) -> AsyncIterator[Peer]:
    """A peer of the tests' own process that joins only to ask."""
    peer = await Peer.join(
        NetworkConfig(tmp_path / "client.key", LOOPBACK_LISTEN, initial_peers=(swarm.address,), is_client=True)
    )
    yield peer
    await peer.close()


# ---- clients that go away


def test_a_client_that_goes_away_frees_the_worker(swarm: Swarm, one_slot: Process) -> None:
    """Given a worker whose only slot is taken by a long answer, when its reader goes, then the next one is served
    long before the answer would have been complete."""
    with open_stream(swarm.url, "one-slot", LONG) as stream:
        began_s = time.monotonic()
        stream.read_chunks(100)
        tokens_per_s = 100 / (time.monotonic() - began_s)
        assert status_of(swarm.url, "one-slot") == 429
    freed_s = wait_until(lambda: status_of(swarm.url, "one-slot") == 200, "the slot is free again")
    assert freed_s < (LONG - 100) / tokens_per_s / 4


async def test_a_peer_that_goes_away_frees_the_worker(one_slot: Process, client: Peer) -> None:
    """The same without a gateway: closing the generator closes the stream."""
    for _ in range(3):  # each would find the slot taken by the one before
        async with aclosing(
            generate(client.network, one_slot.ready.peer_id, request_for("one-slot", "Hello", LONG, ignore_eos=True))
        ) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    break
        await _until_served(client, one_slot, "one-slot")


# ---- workers that go away


async def test_a_worker_that_is_asked_to_stop_withdraws_and_finishes(swarm: Swarm, client: Peer) -> None:
    """Given a running answer, when its worker gets SIGTERM, then it is withdrawn at once, the answer is complete,
    new requests are turned away, and nothing is left of the worker."""

    async def is_withdrawn() -> bool:
        return not await client.directory.workers_of("leaver")

    as_long_as_it_takes = ("--drain-seconds", "240")  # and not the default's 30: the machine may be busy
    leaver = swarm.worker("leaver", *as_long_as_it_takes, token_delay_s=LEISURELY_S)
    leaver.wait_ready()
    wait_until(lambda: "leaver" in models(swarm.url), "the gateway lists leaver")
    with open_stream(swarm.url, "leaver", MEDIUM) as stream:
        stream.read_chunks(5)
        leaver.send(signal.SIGTERM)
        await until(is_withdrawn, "leaver is withdrawn")
        shown = run("peers", "--json", "--initial-peers", swarm.address, root=swarm.start.root)
        assert leaver.ready.peer_id not in [row["worker"]["peer_id"] for row in json.loads(shown.stdout)]
        assert leaver.is_running, "the answer had ended before the directory was looked at"
        assert status_of(swarm.url, "leaver") == 503
        stream.read_all()
    assert stream.is_done
    assert stream.finish_reason == "length"
    assert leaver.wait() == 0
    assert leaver.leftovers() == []
    wait_until(lambda: "leaver" not in models(swarm.url), "the gateway has forgotten leaver")
    assert status_of(swarm.url, "leaver") == 503


def test_a_killed_worker_is_not_noticed_by_its_clients(swarm: Swarm) -> None:
    """Given two workers with an answer each, when one is killed, then both answers are complete and the same, and later
    requests are served by the other."""
    pair = [swarm.worker("pair", name=f"pair{number}") for number in (1, 2)]
    for worker in pair:
        worker.wait_ready()
    wait_until(lambda: workers_listed(swarm.url, "pair") == 2, "the gateway sees both")
    with open_stream(swarm.url, "pair", MEDIUM) as first, open_stream(swarm.url, "pair", MEDIUM) as second:
        first.read_chunks(3)
        second.read_chunks(3)
        pair[0].send(signal.SIGKILL)
        first.read_all()
        second.read_all()
    for stream in (first, second):
        assert stream.error is None
        assert stream.is_done
        assert stream.finish_reason == "length"
    assert first.text == second.text
    for _ in range(4):
        assert status_of(swarm.url, "pair") == 200
    assert pair[1].stop(signal.SIGINT) == 0
    assert pair[1].leftovers() == []


# ---- p2pd that dies


async def test_a_worker_survives_its_p2pd(swarm: Swarm, client: Peer) -> None:
    """Given an answer that runs, when the worker's p2pd is killed, then the answer fails cleanly; the worker comes back
    as the same peer at the same addresses, and announces itself anew."""
    worker = swarm.workers[0]
    before = await _record_of(client, worker)
    async with aclosing(
        generate(client.network, worker.ready.peer_id, request_for("words", "Hello", LONG, ignore_eos=True))
    ) as events:
        assert isinstance(await anext(events), Accepted)
        assert isinstance(await anext(events), TextDelta)
        _kill_daemon(worker)
        with pytest.raises(PeerLost):
            async for event in events:
                assert not isinstance(event, Finished)
    wait_until(lambda: worker.daemon_pid is not None, "p2pd runs again")
    await _until_served(client, worker, "words")

    async def is_announced_anew() -> bool:
        return (await _record_of(client, worker)).sequence > before.sequence

    await until(is_announced_anew, "it is announced anew")
    after = await _record_of(client, worker)
    assert set(after.addresses) == set(before.addresses) == set(worker.ready.addresses)
    wait_until(lambda: workers_listed(swarm.url, "words") == 2, "both workers are in the directory")


def test_a_gateway_survives_its_p2pd(swarm: Swarm) -> None:
    """The stream that ran goes on as soon as p2pd runs again, and later requests are served."""
    undisturbed = streamed(swarm.url, "words", "Hello", MEDIUM, ignore_eos=True)
    with open_stream(swarm.url, "words", MEDIUM) as stream:
        stream.read_chunks(3)
        _kill_daemon(swarm.gateway)
        stream.read_all()
    assert stream.error is None
    assert stream.is_done
    assert stream.text == undisturbed.text
    wait_until(lambda: status_of(swarm.url, "words") == 200, "the gateway serves again")
    for _ in range(4):
        assert status_of(swarm.url, "words") == 200


async def test_a_bootstrap_survives_its_p2pd(swarm: Swarm, tmp_path: Path) -> None:
    """Others join through it again, at the same address, and find the workers."""
    _kill_daemon(swarm.bootstrap)
    wait_until(lambda: swarm.bootstrap.daemon_pid is not None, "p2pd runs again")
    peer = await Peer.join(
        NetworkConfig(tmp_path / "newcomer.key", LOOPBACK_LISTEN, initial_peers=(swarm.address,), is_client=True)
    )
    try:
        for worker in swarm.workers:
            await _record_of(peer, worker)
    finally:
        await peer.close()
    assert status_of(swarm.url, "words") == 200


# ---- what is asked and looked for


async def _until_served(client: Peer, worker: Process, model: str) -> float:
    """Ask this worker until it answers; returns how long that took in seconds."""
    began_s = time.monotonic()
    while True:
        try:
            await exchange(client, worker, request_for(model, "Hello", 1))
        except PeerError as error:
            assert time.monotonic() - began_s < 60, f"{worker.name} serves nobody: {error!r}\n{worker.log}"
            await asyncio.sleep(POLL_S)
        else:
            return time.monotonic() - began_s


async def _record_of(client: Peer, worker: Process) -> CapabilityRecord:
    """What the directory says of this worker."""
    found: list[CapabilityRecord] = []

    async def is_found() -> bool:
        found[:] = [record for record in await client.directory.workers() if record.peer_id == worker.ready.peer_id]
        return bool(found)

    await until(is_found, f"{worker.name} is in the directory")
    return found[0]


def _kill_daemon(process: Process) -> None:
    pid = process.daemon_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: process.daemon_pid != pid, "the killed p2pd is gone")
