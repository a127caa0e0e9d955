"""How soon a full worker says that it is busy, and how it is, through real daemons on this machine: a bootstrap, a
worker whose slots are all held, and a client that asks for one more again and again, and then probes it.

    python -m bench.busy
    python -m bench.busy --requests 1000 --slots 64 --transport tcp

Beside it, the same client asks a worker with a free slot for one token of an echo, over the same connection: from the
request to Accepted, and to Finished. All times are at the client, from before the stream is opened, which is a round
trip of its own. Nothing else of weight may run meanwhile: the load on the machine is printed with the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.harness.swarm import Process, swarm
from p2pnet.client import generate, status
from p2pnet.config import NetworkConfig
from p2pnet.errors import Busy
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, TextPrompt
from p2pnet.network.interface import Network
from p2pnet.peer import Peer

MODEL = "slow"
FREE = "quick"

TOKEN_S = 3600.0
"""What holds a slot waits this long for its first token: it holds it to the end of the benchmark."""

WARM_UP = 20
"""Requests before those that are measured: the connection is made, and both sides have run their code once."""

PROBES = 40
"""As many as a worker answers one after the other."""

LIMIT_MS = 5.0
"""What a full worker may take to say so."""


def main() -> None:
    options = _options()
    with swarm(options.transport) as processes:
        bootstrap = processes.bootstrap()
        held = ("--model", MODEL, "--delay-ms", str(TOKEN_S * 1000), "--slots", str(options.slots))
        full = processes.echo_worker(bootstrap, *held)
        free = processes.echo_worker(bootstrap, "--model", FREE)
        times = asyncio.run(_measure(bootstrap, full, free, options.requests, options.slots))
    _print(times, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="how many of each kind are measured")
    parser.add_argument("--slots", type=int, default=8, help="slots of the full worker")
    parser.add_argument("--transport", choices=("both", "tcp", "quic"), default="both")
    return parser.parse_args()


async def _measure(
    bootstrap: Process, full: Process, free: Process, requests: int, slots: int
) -> dict[str, list[float]]:
    """Seconds, by what they were waited for."""
    times: dict[str, list[float]] = {"busy": [], "accepted": [], "finished": []}
    async with _client(bootstrap.address) as network, AsyncExitStack() as holding:
        for _ in range(slots):
            events = await holding.enter_async_context(aclosing(_ask(network, full, MODEL)))
            if not isinstance(await anext(events), Accepted):
                raise SystemExit("The worker did not take a request into one of its slots.")
        for number in range(WARM_UP + requests):
            busy_s = await _until_busy(network, full)
            accepted_s, finished_s = await _until_done(network, free)
            if number >= WARM_UP:
                for name, seconds in (("busy", busy_s), ("accepted", accepted_s), ("finished", finished_s)):
                    times[name].append(seconds)
        times["status"] = [await _until_status(network, full) for _ in range(PROBES)]
    return times


@contextlib.asynccontextmanager
async def _client(address: str) -> AsyncIterator[Network]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        config = NetworkConfig(
            Path(folder) / "client.key",
            listen=("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"),
            initial_peers=(address,),
            is_client=True,
        )
        peer = await Peer.join(config)
        try:
            yield peer.network
        finally:
            await peer.close()


def _ask(network: Network, worker: Process, model: str) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
    request = GenerateRequest("bench", model, TextPrompt("one"), max_tokens=1)
    return generate(network, str(worker.ready["peer_id"]), request, worker.ready["addresses"])


async def _until_busy(network: Network, worker: Process) -> float:
    began_s = time.perf_counter()
    try:
        async with aclosing(_ask(network, worker, MODEL)) as events:
            await anext(events)
    except Busy:
        return time.perf_counter() - began_s
    raise SystemExit("The worker was not full.")


async def _until_status(network: Network, worker: Process) -> float:
    began_s = time.perf_counter()
    await status(network, str(worker.ready["peer_id"]), worker.ready["addresses"], timeout_s=10)
    return time.perf_counter() - began_s


async def _until_done(network: Network, worker: Process) -> tuple[float, float]:
    began_s = time.perf_counter()
    async with aclosing(_ask(network, worker, FREE)) as events:
        await anext(events)
        accepted_s = time.perf_counter() - began_s
        async for _ in events:
            pass
        return accepted_s, time.perf_counter() - began_s


def _print(times: dict[str, list[float]], options: argparse.Namespace) -> None:
    table = Table("Until", "Median", "p90", "p99", "Worst", f"Under {LIMIT_MS:.0f} ms")
    for name, what in (
        ("busy", "Failed, busy"),
        ("status", "Status, full"),
        ("accepted", "Accepted"),
        ("finished", "Finished, after one token"),
    ):
        ms = sorted(1000 * seconds for seconds in times[name])
        cuts = statistics.quantiles(ms, n=100)
        share = sum(each < LIMIT_MS for each in ms) / len(ms)
        table.add_row(what, *(f"{value:.2f} ms" for value in (cuts[49], cuts[89], cuts[98], ms[-1])), f"{share:.1%}")
    console = Console()
    console.print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(
        f"{options.requests} requests of each kind, {PROBES} probes, {options.slots} slots held, "
        f"transport {options.transport}, {os.cpu_count()} cores, load {load}."
    )


if __name__ == "__main__":
    main()
