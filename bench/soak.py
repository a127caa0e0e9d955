"""Does anything leak? Full load for minutes, with faults off and then on; what each process holds, and its slope.

    python -m bench.soak [--minutes N] [--json [FILE]]

Clients ask without a pause; a fifth of them leave at a random moment. With faults on, workers are killed in turn and
come back; the first worker is left alone, so that there is one to watch. Every second the memory, open files, unix
sockets, threads, asyncio tasks and libp2p streams of the gateway, its p2pd, the first worker and its p2pd are read.

How many streams a worker has is the gateway's choice, and each holds a socket on either side of p2pd and some tasks. So
after a warm-up each count is fitted by what is always there, something for each open stream, and something for each
minute (least squares): the last must be flat. So must the streams themselves. Memory follows the largest number
of streams so far, not the present one: its own slope is judged, of the lowest value of every ten seconds, since a heap
that is collected goes up and down.
Exit status 1 when something is not flat, or an answer was lost or wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from bench.harness.chain_model import chain_text
from bench.harness.http_client import Connection
from bench.harness.storm import Fault, Herd, Kind, wait_for_workers
from bench.harness.swarm import Process, StartFailed, swarm
from bench.harness.timed_client import ChatRequest, TimedStream, ask

MODEL = "chain"
SAMPLE_S = 1.0
WARM_UP = 0.25
"""The part of each run that is not looked at: pools and caches fill, code is compiled, allocators grow."""

MAX_GROWTH = 0.05
"""Over the rest of the run, as a part of the mean. Flat is what would double in no less than twenty such runs."""

MEMORY = "memory, MiB"
STREAMS = "streams"
LEAST = {MEMORY: 8.0, "files": 8.0, "sockets": 8.0, "threads": 2.0, "tasks": 8.0, STREAMS: 16.0}
"""Growth over the rest of the run below which nothing is said of it: chance, and for streams a share that changes."""

LOWEST_OF = 10
"""Samples of memory of which the lowest counts."""

LEAVERS = 0.2
METRICS_FILE = "metrics.url"
GAUGES = {
    "tasks": re.compile(rb"^p2pnet_asyncio_tasks ([0-9.e+]+)$", re.MULTILINE),
    STREAMS: re.compile(rb"^p2pnet_streams ([0-9.e+]+)$", re.MULTILINE),
}
TABLE_WIDTH = 120


@dataclass(frozen=True)
class Settings:
    minutes: float
    clients: int
    workers: int
    tokens: int
    delay_ms: float
    fault_every_s: float
    seed: int


@dataclass(frozen=True)
class Sample:
    """A value, after so many seconds, with so many streams open."""

    at_s: float
    streams: float
    value: float


@dataclass(frozen=True)
class Line:
    """One thing of one process over a run: its mean after the warm-up, how much of it comes with each stream (None
    where that is not asked), and how much it grows in a minute apart from that."""

    process: str
    what: str
    mean: float
    per_stream: float | None
    per_minute: float
    is_flat: bool


@dataclass(frozen=True)
class Run:
    has_faults: bool
    ended: dict[str, int]
    faults: int
    lines: tuple[Line, ...]

    @property
    def is_sound(self) -> bool:
        return all(line.is_flat for line in self.lines) and set(self.ended) <= {"whole", "left"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings(
        minutes=options.minutes,
        clients=options.clients,
        workers=options.workers,
        tokens=options.tokens,
        delay_ms=options.delay_ms,
        fault_every_s=options.fault_every,
        seed=options.seed,
    )
    console = Console(stderr=options.json == "-", highlight=False, width=TABLE_WIDTH)
    runs = []
    try:
        for has_faults in (False, True):
            console.print(f"{settings.minutes:g} minutes with faults {'on' if has_faults else 'off'} ...")
            runs.append(_run(settings, has_faults))
            _print(runs[-1], settings, console)
    except KeyboardInterrupt:
        return 130
    except (StartFailed, TimeoutError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        text = json.dumps({"settings": asdict(settings), "runs": [asdict(run) for run in runs]}, indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0 if all(run.is_sound for run in runs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each of the two runs")
    parser.add_argument("--clients", type=int, default=64, help="streams at the same time")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=60, help="of each answer")
    parser.add_argument("--delay-ms", type=float, default=30.0, help="between two tokens")
    parser.add_argument("--fault-every", type=float, default=15.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


# ---- one run


def _run(settings: Settings, has_faults: bool) -> Run:
    with swarm() as running:
        bootstrap = running.bootstrap()
        arguments = ("--chain", MODEL, "--delay-ms", str(settings.delay_ms), "--metrics-file", METRICS_FILE)
        herd = Herd(lambda: running.echo_worker(bootstrap, *arguments), settings.workers, None)
        gateway = running.gateway(bootstrap)
        herd.wait_ready()
        return uvloop.run(_Load(settings, gateway, herd, has_faults).run())


class _Load:
    """The clients, the faults and the samples of one run."""

    def __init__(self, settings: Settings, gateway: Process, herd: Herd, has_faults: bool) -> None:
        self._settings = settings
        self._url = str(gateway.ready["http"])
        self._watched = {"gateway": gateway, "worker": herd.members[0]}
        self._herd = herd
        self._has_faults = has_faults
        self._rng = random.Random(settings.seed)
        self._ended: Counter[str] = Counter()
        self._faults = 0
        self._asked = 0
        self._is_over = False
        self._samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)

    async def run(self) -> Run:
        await wait_for_workers(self._url, MODEL, self._settings.workers)
        loop = asyncio.get_running_loop()
        clients = [loop.create_task(self._be_client()) for _ in range(self._settings.clients)]
        others = [loop.create_task(self._sample())]
        if self._has_faults:
            others.append(loop.create_task(self._do_harm()))
        await asyncio.sleep(self._settings.minutes * 60)
        self._is_over = True
        for task in others:
            task.cancel()
        await asyncio.gather(*clients)
        await self._herd.wait_returned()
        lines = tuple(line_of(*name, samples) for name, samples in self._samples.items())
        return Run(self._has_faults, dict(self._ended), self._faults, lines)

    async def _be_client(self) -> None:
        while not self._is_over:
            self._asked += 1
            settings = self._settings
            request = ChatRequest(f"soak-{self._asked}", MODEL, f"stream {self._asked}", settings.tokens, self._asked)
            if self._rng.random() < LEAVERS:
                stream = await TimedStream.open(self._url, request)
                await asyncio.sleep(self._rng.uniform(0, settings.tokens * settings.delay_ms / 1000))
                stream.close()
                self._ended["left"] += 1
                continue
            answer = await ask(self._url, request)
            if not answer.is_complete:
                self._ended[f"lost: {answer.error or 'connection closed'}"] += 1
            elif answer.text != chain_text(request.prompt, request.seed, request.tokens):
                self._ended["wrong text"] += 1
            else:
                self._ended["whole"] += 1

    async def _do_harm(self) -> None:
        while True:
            await asyncio.sleep(self._settings.fault_every_s)
            worker = self._rng.randrange(1, self._settings.workers)
            if await self._herd.is_up(worker):
                self._herd.strike(Fault(0.0, worker, self._rng.choice(list(Kind))), away_s=1.0)
                self._faults += 1

    async def _sample(self) -> None:
        pages = {"gateway": self._url, "worker": self._watched["worker"].file(METRICS_FILE).read_text()}
        connections = {name: await Connection.connect(url) for name, url in pages.items()}
        began_s = asyncio.get_running_loop().time()
        while True:
            for name, process in self._watched.items():
                now_s = asyncio.get_running_loop().time() - began_s
                gauges = await _gauges(connections[name])
                streams = gauges[STREAMS]
                self._note(name, now_s, streams, held_by(process.pid) | gauges)
                if (daemon_pid := process.daemon_pid) is not None:
                    self._note(f"{name} p2pd", now_s, streams, held_by(daemon_pid))
            await asyncio.sleep(SAMPLE_S)

    def _note(self, process: str, now_s: float, streams: float, held: Mapping[str, float]) -> None:
        for what, value in held.items():
            self._samples[process, what].append(Sample(now_s, streams, value))


async def _gauges(connection: Connection) -> dict[str, float]:
    """What a metrics page says of its process."""
    page = (await connection.ask(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n")).body()
    found = {name: gauge.search(page) for name, gauge in GAUGES.items()}
    return {name: float(match[1]) for name, match in found.items() if match is not None}


def held_by(pid: int) -> dict[str, float]:
    """What a process holds now."""
    process = psutil.Process(pid)
    with process.oneshot():
        return {
            "memory, MiB": process.memory_info().rss / (1 << 20),
            "files": float(process.num_fds()),
            "sockets": float(len(process.net_connections("unix"))),
            "threads": float(process.num_threads()),
        }


def line_of(process: str, what: str, samples: Sequence[Sample]) -> Line:
    """The verdict on what was read of one thing."""
    settled = samples[int(WARM_UP * len(samples)) :]
    mean = statistics.fmean(sample.value for sample in settled)
    if what == MEMORY:
        per_stream, slope = None, _slope([min(some, key=lambda each: each.value) for some in _by_tens(settled)])
    elif what == STREAMS:
        per_stream, slope = None, _slope(settled)
    else:
        per_stream, slope = _fit(settled)
    growth = slope * (settled[-1].at_s - settled[0].at_s)
    return Line(process, what, mean, per_stream, 60 * slope, growth <= max(LEAST[what], MAX_GROWTH * mean))


def _by_tens(samples: Sequence[Sample]) -> list[Sequence[Sample]]:
    return [samples[begin : begin + LOWEST_OF] for begin in range(0, len(samples), LOWEST_OF)]


def _slope(samples: Sequence[Sample]) -> float:
    return _regression([each.at_s for each in samples], [each.value for each in samples])


def _fit(samples: Sequence[Sample]) -> tuple[float, float]:
    """How much comes with each stream, and with each second: least squares of both together (Frisch and Waugh 1933)."""
    streams = [each.streams for each in samples]
    times = _without(streams, [each.at_s for each in samples])
    values = _without(streams, [each.value for each in samples])
    per_s = _regression(times, values)
    rest = [each.value - per_s * each.at_s for each in samples]
    return _regression(streams, rest), per_s


def _without(causes: Sequence[float], effects: Sequence[float]) -> list[float]:
    """What of the effects the causes do not explain."""
    slope, mean = _regression(causes, effects), statistics.fmean(causes)
    return [effect - slope * (cause - mean) for cause, effect in zip(causes, effects, strict=True)]


def _regression(causes: Sequence[float], effects: Sequence[float]) -> float:
    """The slope of the line through them; 0 when the cause never changes."""
    return statistics.linear_regression(causes, effects).slope if len(set(causes)) > 1 else 0.0


def _print(run: Run, settings: Settings, console: Console) -> None:
    ended = ", ".join(f"{count} {how}" for how, count in sorted(run.ended.items()))
    console.print(
        f"{settings.clients} clients, {settings.workers} workers, {run.faults} faults; {ended}. "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}."
    )
    table = Table("process", "what", *("mean", "per stream", "per minute"), "", title="after a warm-up")
    for line in run.lines:
        per_stream = "" if line.per_stream is None else f"{line.per_stream:.2f}"
        values = (f"{line.mean:.1f}", per_stream, f"{line.per_minute:+.2f}")
        table.add_row(line.process, line.what, *values, "flat" if line.is_flat else "GROWS")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
