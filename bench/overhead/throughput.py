"""How many chunks a second are streamed, and how much CPU time each takes."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness.http_client import Answer, Connection, chat_request
from bench.harness.swarm import Process
from bench.overhead.sides import CLIENT, DAEMONS, WORKER, Settings, Sides, checked


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
class _Round:
    chunks: int
    events: int
    wall_s: float
    cpu_s: dict[str, float]


async def measure_throughput(sides: Sides, settings: Settings, model: str, concurrency: int) -> list[Throughput]:
    rounds: dict[str, list[_Round]] = {side: [] for side in sides.urls}
    for side in sides.urls:
        await _ask_for(sides, side, settings, model, concurrency, seconds=0)  # opens what stays open
    for _ in range(settings.rounds):
        for side, found in rounds.items():
            found.append(await _ask_for(sides, side, settings, model, concurrency, settings.seconds))
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


async def _ask_for(sides: Sides, side: str, settings: Settings, model: str, concurrency: int, seconds: float) -> _Round:
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
    events = [checked(answer, settings.deltas).events for answers in found for answer in answers]
    return _Round(
        settings.deltas * len(events), sum(events), wall_s, {name: after[name] - before[name] for name in before}
    )


def _cpu_seconds(processes: dict[str, Process]) -> dict[str, float]:
    used = {name: process.cpu_seconds() for name, process in processes.items()}
    counted = {CLIENT: time.process_time()} | {name: seconds.own for name, seconds in used.items()}
    return counted | ({DAEMONS: sum(seconds.daemon for seconds in used.values())} if WORKER in used else {})
