"""What the network costs: an echo through gateway, libp2p and worker, against the same echo behind plain HTTP.

    python -m bench.overhead [--json [FILE]]

A bootstrap, a worker and a gateway run as separate processes with p2pd daemons of their own; beside them the same
echo runs behind the same HTTP surface in one process. Both are asked in turns, so that a busy machine slows both.
A chunk is one delta that the backend produced and that reached the client, counted once however many travelled in
one SSE event. CPU time per chunk is given too: it tells more than the wall clock where other work is running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.harness import echo_models
from bench.harness.http_client import Answer, Connection, Stream, chat_request
from bench.harness.swarm import TRANSPORTS, Process, StartFailed, Swarm, swarm

AIM_ADDED_MS = 3.0
AIM_CHUNKS_PER_S = 20_000
AIM_CONCURRENCY = 64
TABLE_WIDTH = 150
FIRST_TOKEN_REQUEST_TOKENS = 4
WARM_UP_REQUESTS = 20
MODEL_TIMEOUT_S = 30.0

NETWORK, PLAIN = "network", "plain"
CLIENT, HTTP, WORKER, DAEMONS = "client", "http", "worker", "p2pd"
"""Whose CPU time is counted: this process, the gateway or the plain server, the worker, and p2pd of both."""


class Wrong(Exception):
    """An answer was not what the echo says: there is nothing to measure."""


@dataclass(frozen=True)
class Settings:
    transport: str
    requests: int
    deltas: int
    seconds: float
    rounds: int
    concurrency: tuple[int, ...]


@dataclass(frozen=True)
class Sides:
    """What is compared: base URLs, and the processes whose CPU time counts."""

    urls: dict[str, str]
    processes: dict[str, dict[str, Process]]


@dataclass(frozen=True)
class FirstToken:
    """Milliseconds to the first token at concurrency 1. `added` compares the percentiles of the two sides; `rounds`
    holds the added p50 of each round."""

    requests: int
    network_p50_ms: float
    network_p90_ms: float
    plain_p50_ms: float
    plain_p90_ms: float
    added_p50_ms: float
    added_p90_ms: float
    rounds_added_p50_ms: tuple[float, ...]


@dataclass(frozen=True)
class Throughput:
    """One side at one concurrency. `cpu_us_per_chunk` is per process; `cores` is what all of them used together."""

    side: str
    model: str
    concurrency: int
    chunks_per_s: float
    rounds_chunks_per_s: tuple[float, ...]
    events_per_s: float
    chunks_per_event: float
    cpu_us_per_chunk: dict[str, float]
    cores: float


@dataclass(frozen=True)
class Machine:
    cores: int | None
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]


@dataclass(frozen=True)
class Report:
    machine: Machine
    settings: Settings
    first_token: FirstToken
    throughput: tuple[Throughput, ...]
    aims: dict[str, object]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings(
        transport=options.transport,
        requests=options.requests,
        deltas=options.deltas,
        seconds=options.seconds,
        rounds=options.rounds,
        concurrency=tuple(options.concurrency),
    )
    console = Console(stderr=options.json == "-", highlight=False, width=TABLE_WIDTH)
    try:
        with swarm(options.transport) as running:
            console.print("Starting a bootstrap, a worker, a gateway and the plain server ...")
            sides = _start(running)
            report = uvloop.run(_measure(sides, settings, console))
    except KeyboardInterrupt:
        return 130
    except (StartFailed, Wrong) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    _print(report, console)
    if options.json is not None:
        text = json.dumps(asdict(report), indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=400, help="for the time to first token, each side")
    parser.add_argument("--deltas", type=int, default=1000, help="tokens of each stream")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long new streams begin in a round of one side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every measurement; their spread is shown")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--transport", choices=list(TRANSPORTS), default="both", help="what the peers listen on")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


def _start(running: Swarm) -> Sides:
    bootstrap, plain = running.bootstrap(), running.plain_server()
    worker, gateway = running.echo_worker(bootstrap), running.gateway(bootstrap)
    assert worker.ready and bootstrap.ready
    return Sides(
        urls={NETWORK: gateway.ready["http"], PLAIN: plain.ready["http"]},
        processes={NETWORK: {HTTP: gateway, WORKER: worker}, PLAIN: {HTTP: plain}},
    )


async def _measure(sides: Sides, settings: Settings, console: Console) -> Report:
    load_before = os.getloadavg()
    await _wait_for_model(sides.urls[NETWORK])
    console.print("Time to first token ...")
    first_token = await _first_token(sides, settings)
    throughput = []
    for model in (echo_models.STEPPED, echo_models.INSTANT):
        for concurrency in settings.concurrency:
            console.print(f"Chunks per second, {model} backend, {concurrency} streams ...")
            throughput += await _throughput(sides, settings, model, concurrency)
    machine = Machine(os.cpu_count(), load_before, os.getloadavg())
    return Report(machine, settings, first_token, tuple(throughput), _aims(first_token, throughput))


def _aims(first_token: FirstToken, throughput: Sequence[Throughput]) -> dict[str, object]:
    most = [row for row in throughput if row.side == NETWORK and row.concurrency == AIM_CONCURRENCY]
    return {
        "added_p50_ms": {"aim": AIM_ADDED_MS, "is_met": first_token.added_p50_ms <= AIM_ADDED_MS},
        "chunks_per_s_at_64": {
            "aim": AIM_CHUNKS_PER_S,
            "is_met": {row.model: row.chunks_per_s >= AIM_CHUNKS_PER_S for row in most},
        },
    }


async def _wait_for_model(url: str) -> None:
    """Until the gateway has found the worker."""
    deadline_s = time.monotonic() + MODEL_TIMEOUT_S
    connection = await Connection.connect(url)
    while (answer := await connection.ask(chat_request(echo_models.STEPPED, 1))).status != 200:
        if time.monotonic() > deadline_s:
            raise Wrong(f"the gateway does not find the worker: {answer.body()[:300]!r}")
        await asyncio.sleep(0.05)
    connection.close()


# ---- time to first token


async def _first_token(sides: Sides, settings: Settings) -> FirstToken:
    connections = {side: await Connection.connect(url) for side, url in sides.urls.items()}
    await _first_token_round(connections, WARM_UP_REQUESTS)
    per_round = max(1, settings.requests // settings.rounds)
    rounds = [await _first_token_round(connections, per_round) for _ in range(settings.rounds)]
    for connection in connections.values():
        connection.close()
    network = [ms for found in rounds for ms in found[NETWORK]]
    plain = [ms for found in rounds for ms in found[PLAIN]]
    return FirstToken(
        requests=len(network),
        network_p50_ms=_percentile(network, 50),
        network_p90_ms=_percentile(network, 90),
        plain_p50_ms=_percentile(plain, 50),
        plain_p90_ms=_percentile(plain, 90),
        added_p50_ms=_percentile(network, 50) - _percentile(plain, 50),
        added_p90_ms=_percentile(network, 90) - _percentile(plain, 90),
        rounds_added_p50_ms=tuple(_percentile(found[NETWORK], 50) - _percentile(found[PLAIN], 50) for found in rounds),
    )


async def _first_token_round(connections: dict[str, Connection], requests: int) -> dict[str, list[float]]:
    """One request to each side in turns, one at a time."""
    request = chat_request(echo_models.STEPPED, FIRST_TOKEN_REQUEST_TOKENS)
    found: dict[str, list[float]] = {side: [] for side in connections}
    for _ in range(requests):
        for side, connection in connections.items():
            answer = await connection.ask(request)
            _checked(answer, FIRST_TOKEN_REQUEST_TOKENS)
            assert answer.first_token_s is not None
            found[side].append((answer.first_token_s - answer.began_s) * 1000)
    return found


def _percentile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


# ---- chunks per second


@dataclass(frozen=True)
class _Round:
    chunks: int
    events: int
    wall_s: float
    cpu_s: dict[str, float]


async def _throughput(sides: Sides, settings: Settings, model: str, concurrency: int) -> list[Throughput]:
    rounds: dict[str, list[_Round]] = {side: [] for side in sides.urls}
    for side in sides.urls:
        await _throughput_round(sides, side, settings, model, concurrency, seconds=0)  # opens what stays open
    for _ in range(settings.rounds):
        for side, found in rounds.items():
            found.append(await _throughput_round(sides, side, settings, model, concurrency, settings.seconds))
    return [_summary(side, model, concurrency, found) for side, found in rounds.items()]


def _summary(side: str, model: str, concurrency: int, rounds: Sequence[_Round]) -> Throughput:
    """The median of the rounds; CPU time over all of them."""
    speeds = tuple(found.chunks / found.wall_s for found in rounds)
    chunks = sum(found.chunks for found in rounds)
    events = sum(found.events for found in rounds)
    cpu_s = {name: sum(found.cpu_s[name] for found in rounds) for name in rounds[0].cpu_s}
    return Throughput(
        side=side,
        model=model,
        concurrency=concurrency,
        chunks_per_s=statistics.median(speeds),
        rounds_chunks_per_s=speeds,
        events_per_s=statistics.median(found.events / found.wall_s for found in rounds),
        chunks_per_event=chunks / events,
        cpu_us_per_chunk={name: used_s / chunks * 1e6 for name, used_s in cpu_s.items()},
        cores=sum(cpu_s.values()) / sum(found.wall_s for found in rounds),
    )


async def _throughput_round(
    sides: Sides, side: str, settings: Settings, model: str, concurrency: int, seconds: float
) -> _Round:
    """Each of `concurrency` connections asks for one stream after another, and begins none after `seconds`."""
    request = chat_request(model, settings.deltas)
    connections = await asyncio.gather(*(Connection.connect(sides.urls[side]) for _ in range(concurrency)))
    before = _cpu_seconds(sides.processes[side])
    began_s = time.perf_counter()

    async def ask_on(connection: Connection) -> list[Answer]:
        answers = [await connection.ask(request)]
        while time.perf_counter() - began_s < seconds:
            answers.append(await connection.ask(request))
        return answers

    found = await asyncio.gather(*map(ask_on, connections))
    wall_s = time.perf_counter() - began_s
    after = _cpu_seconds(sides.processes[side])
    for connection in connections:
        connection.close()
    events = [_checked(answer, settings.deltas).events for answers in found for answer in answers]
    return _Round(
        settings.deltas * len(events), sum(events), wall_s, {name: after[name] - before[name] for name in before}
    )


def _cpu_seconds(processes: dict[str, Process]) -> dict[str, float]:
    used = {name: process.cpu_seconds() for name, process in processes.items()}
    counted = {CLIENT: time.process_time()} | {name: seconds.own for name, seconds in used.items()}
    return counted | ({DAEMONS: sum(seconds.daemon for seconds in used.values())} if WORKER in used else {})


def _checked(answer: Answer, tokens: int) -> Stream:
    """The stream, whole and correct. Off the clock."""
    stream = Stream.parse(answer.body())
    if answer.status != 200 or not stream.is_complete or stream.text != echo_models.text_of(tokens):
        raise Wrong(f"status {answer.status}, {len(stream.text)} characters, ends with {answer.body()[-300:]!r}")
    return stream


# ---- the tables


def _print(report: Report, console: Console) -> None:
    load = " -> ".join(f"{load[0]:.1f}" for load in (report.machine.load_before, report.machine.load_after))
    console.print(f"{report.machine.cores} cores, load average {load}, transport: {report.settings.transport}\n")
    _print_first_token(report.first_token, console)
    _print_throughput(report, console)


def _print_first_token(found: FirstToken, console: Console) -> None:
    title = f"Time to first token, one request at a time, {found.requests} per side"
    table = Table("side", "p50 ms", "p90 ms", title=title)
    table.add_row("network", f"{found.network_p50_ms:.2f}", f"{found.network_p90_ms:.2f}")
    table.add_row("plain", f"{found.plain_p50_ms:.2f}", f"{found.plain_p90_ms:.2f}")
    table.add_row("added", f"{found.added_p50_ms:.2f}", f"{found.added_p90_ms:.2f}")
    console.print(table)
    console.print(
        f"Added p50, round by round: {_spread(found.rounds_added_p50_ms, '.2f')} ms. "
        f"Aim: at most {AIM_ADDED_MS:g} ms. {_said(found.added_p50_ms <= AIM_ADDED_MS)}\n"
    )


def _print_throughput(report: Report, console: Console) -> None:
    table = Table("backend", "streams", "side", title=f"Streamed chunks, {report.settings.deltas} per stream")
    for name in ("chunks/s", "rounds", "SSE events/s", "chunks/event", "cores"):
        table.add_column(name, justify="right")
    table.add_column("CPU µs/chunk: client")
    for name in ("HTTP", "worker", "p2pd"):
        table.add_column(name, justify="right")
    for row in report.throughput:
        cpu = row.cpu_us_per_chunk
        table.add_row(
            row.model,
            str(row.concurrency),
            row.side,
            f"{row.chunks_per_s:,.0f}",
            _spread(row.rounds_chunks_per_s, ",.0f"),
            f"{row.events_per_s:,.0f}",
            f"{row.chunks_per_event:.1f}",
            f"{row.cores:.2f}",
            *(f"{cpu[name]:.1f}" if name in cpu else "" for name in (CLIENT, HTTP, WORKER, DAEMONS)),
        )
    console.print(table)
    for row in report.throughput:
        if row.side == NETWORK and row.concurrency == AIM_CONCURRENCY:
            is_met = row.chunks_per_s >= AIM_CHUNKS_PER_S
            console.print(
                f"Aim with the {row.model} backend: at least {AIM_CHUNKS_PER_S:,} chunks/s "
                f"at {AIM_CONCURRENCY} streams on two cores. {_said(is_met)}"
            )


def _spread(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}}..{max(values):{form}}"


def _said(is_met: bool) -> str:
    return "Met." if is_met else "Not met."


if __name__ == "__main__":
    sys.exit(main())
