"""What the network costs: an echo through gateway, libp2p and worker, against the same echo behind plain HTTP.

    python -m bench.overhead [--json [FILE]]
    python -m bench.overhead --against CHECKOUT [--upstream] [--pairs N]

A bootstrap, a worker and a gateway run as separate processes with p2pd daemons of their own; beside them the same
echo runs behind the same HTTP surface in one process. Both are asked in turns, so that a busy machine slows both.
A chunk is one delta that the backend produced and that reached the client, counted once however many travelled in
one SSE event. CPU time per chunk is given too: it tells more than the wall clock where other work is running.

With `--against` two checkouts are asked in turns instead: what a small request and a live token cost in each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import uvloop
from rich.console import Console

from bench.harness import echo_models
from bench.harness.http_client import Connection, chat_request
from bench.harness.swarm import TRANSPORTS, StartFailed, swarm
from bench.overhead.first_token import measure_first_token
from bench.overhead.pairs import PairSettings, compare, start_side
from bench.overhead.report import Machine, Report, aims_of, show
from bench.overhead.sides import NETWORK, Settings, Sides, Wrong, start
from bench.overhead.throughput import measure_throughput

TABLE_WIDTH = 150
MODEL_TIMEOUT_S = 30.0


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
        if options.against is not None:
            _compare(options, console)
            return 0
        with swarm(options.transport) as running:
            console.print("Starting a bootstrap, a worker, a gateway and the plain server ...")
            sides = start(running)
            report = uvloop.run(_measure(sides, settings, console))
    except KeyboardInterrupt:
        return 130
    except (StartFailed, Wrong) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    show(report, console)
    if options.json is not None:
        text = json.dumps(asdict(report), indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


def _compare(options: argparse.Namespace, console: Console) -> None:
    """This checkout and the other one, both running, asked in turns. Raises StartFailed or Wrong."""
    settings = PairSettings(options.pairs, max(options.concurrency), options.seconds, options.upstream)
    transport = options.transport
    with swarm(transport) as beside, swarm(transport) as ours, swarm(transport, options.against.resolve()) as theirs:
        console.print("Starting a bootstrap, two workers and a gateway of each checkout ...")
        alone = beside.instant_upstream() if options.upstream else beside.plain_server()
        upstream = alone if options.upstream else None
        sides = [start_side("this", ours, upstream), start_side("other", theirs, upstream)]
        console.print(uvloop.run(compare(sides, alone.ready["http"], settings, console.print)))
        console.print(f"{os.cpu_count()} cores, load average {', '.join(f'{each:.1f}' for each in os.getloadavg())}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bench.overhead", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=400, help="for the time to first token, each side")
    parser.add_argument("--deltas", type=int, default=1000, help="tokens of each stream")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long new streams begin in a round of one side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of every measurement; their spread is shown")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--transport", choices=list(TRANSPORTS), default="both", help="what the peers listen on")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the version in this folder")
    parser.add_argument("--pairs", type=int, default=5, help="turns of both sides, with --against")
    parser.add_argument("--upstream", action="store_true", help="the workers lend a server, with --against")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


async def _measure(sides: Sides, settings: Settings, console: Console) -> Report:
    load_before = os.getloadavg()
    await _wait_for_model(sides.urls[NETWORK])
    console.print("Time to first token ...")
    first_token = await measure_first_token(sides, settings)
    throughput = []
    for model in (echo_models.STEPPED, echo_models.INSTANT):
        for concurrency in settings.concurrency:
            console.print(f"Chunks per second, {model} backend, {concurrency} streams ...")
            throughput += await measure_throughput(sides, settings, model, concurrency)
    machine = Machine(os.cpu_count(), load_before, os.getloadavg())
    return Report(machine, settings, first_token, tuple(throughput), aims_of(first_token, throughput))


async def _wait_for_model(url: str) -> None:
    """Until the gateway has found the worker."""
    deadline_s = time.monotonic() + MODEL_TIMEOUT_S
    connection = await Connection.connect(url)
    while (answer := await connection.ask(chat_request(echo_models.STEPPED, 1))).status != 200:
        if time.monotonic() > deadline_s:
            raise Wrong(f"the gateway does not find the worker: {answer.body()[:300]!r}")
        await asyncio.sleep(0.05)
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
