"""This checkout and another one, asked in turns in one run: what a small streamed request and a token cost in each.

Each side is a bootstrap, two workers and a gateway. Their backend answers at once, or a token every 40 ms: an echo
inside the workers, or with `is_upstream` a server beside them. What a process costs is its CPU time.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.harness import echo_models
from bench.harness.http_client import Connection, chat_request
from bench.harness.swarm import Process, Swarm
from bench.overhead.sides import Wrong, checked

REQUEST_TOKENS = 8
"""A small request: its answer fits one packet."""

FIRST_TOKENS = 100
"""Requests one after another, in each turn of a side."""

LIVE_STREAMS = 50
LIVE_TOKENS = 75
"""Three seconds of a model that somebody reads along with."""

FOUND_S = 30.0
GATEWAY, WORKERS, GATEWAYS_DAEMON, WORKERS_DAEMONS = "gateway", "workers", "the gateway's p2pd", "the workers' p2pd"
PROCESSES = (GATEWAY, WORKERS, GATEWAYS_DAEMON, WORKERS_DAEMONS)


@dataclass(frozen=True)
class PairSettings:
    pairs: int
    concurrency: int
    seconds: float
    is_upstream: bool


@dataclass(frozen=True)
class Side:
    """One checkout's swarm."""

    name: str
    url: str
    gateway: Process
    workers: tuple[Process, ...]

    def cpu_s(self) -> dict[str, float]:
        gateway, workers = self.gateway.cpu_seconds(), [worker.cpu_seconds() for worker in self.workers]
        return {
            GATEWAY: gateway.own,
            WORKERS: sum(each.own for each in workers),
            GATEWAYS_DAEMON: gateway.daemon,
            WORKERS_DAEMONS: sum(each.daemon for each in workers),
        }


@dataclass(frozen=True)
class Turn:
    """What one side did in its turn. CPU is in ms, by process; `late_p99_ms` says how late live tokens came."""

    requests_per_s: float
    first_token_ms: float
    request_cpu_ms: dict[str, float]
    token_cpu_ms: dict[str, float]
    late_p99_ms: float


def start_side(name: str, running: Swarm, upstream: Process | None) -> Side:
    """Raises StartFailed."""
    bootstrap = running.bootstrap()
    if upstream is None:
        pace = ("--model", echo_models.PACED, "--delay-ms", str(1000 * echo_models.PACE_S))
        workers = [
            running.echo_worker(bootstrap),
            running.echo_worker(bootstrap),
            running.echo_worker(bootstrap, *pace),
        ]
    else:
        lends = ("--upstream", f"{upstream.ready['http']}/v1", "--upstream-kind", "openai", "--max-concurrency", "256")
        workers = [running.worker(bootstrap, *lends), running.worker(bootstrap, *lends)]
    gateway = running.gateway(bootstrap)
    assert all(worker.ready for worker in workers)
    return Side(name, gateway.ready["http"], gateway, tuple(workers))


async def compare(sides: Sequence[Side], alone_url: str, settings: PairSettings, say: Callable[[str], None]) -> Table:
    """Raises Wrong when an answer is."""
    turns: dict[str, list[Turn]] = {side.name: [] for side in sides}
    for side in sides:
        await wait_for_models(side.url, (echo_models.INSTANT, echo_models.PACED))
        await _small_requests(side.url, settings.concurrency, 0.0)  # opens what stays open
    for number in range(settings.pairs):
        for side in sides if number % 2 == 0 else reversed(sides):
            say(f"Pair {number + 1} of {settings.pairs}, {side.name} ...")
            turns[side.name].append(await _turn(side, alone_url, settings))
    return _table(turns, settings)


async def wait_for_models(url: str, models: Sequence[str]) -> None:
    """Until a gateway has found a worker of each. Raises Wrong."""
    deadline_s = time.monotonic() + FOUND_S
    connection = await Connection.connect(url)
    for model in models:
        while (answer := await connection.ask(chat_request(model, 1))).status != 200:
            if time.monotonic() > deadline_s:
                raise Wrong(f"the gateway finds no worker of {model}: {answer.body()[:300]!r}")
            await asyncio.sleep(0.05)
    connection.close()


async def _turn(side: Side, alone_url: str, settings: PairSettings) -> Turn:
    added_ms = await _first_token_ms(side.url) - await _first_token_ms(alone_url)
    before, began_s = side.cpu_s(), time.perf_counter()
    requests = await _small_requests(side.url, settings.concurrency, settings.seconds)
    per_s = requests / (time.perf_counter() - began_s)
    between = side.cpu_s()
    late_s = await _live_streams(side.url)
    after = side.cpu_s()
    return Turn(
        requests_per_s=per_s,
        first_token_ms=added_ms,
        request_cpu_ms={name: 1000 * (between[name] - before[name]) / requests for name in before},
        token_cpu_ms={name: 1000 * (after[name] - between[name]) / (LIVE_STREAMS * LIVE_TOKENS) for name in before},
        late_p99_ms=1000 * statistics.quantiles(late_s, n=100)[98],
    )


async def _first_token_ms(url: str) -> float:
    """The median, one request at a time."""
    connection, found = await Connection.connect(url), []
    for _ in range(FIRST_TOKENS):
        answer = await connection.ask(chat_request(echo_models.INSTANT, REQUEST_TOKENS))
        checked(answer, REQUEST_TOKENS)
        assert answer.first_token_s is not None
        found.append(1000 * (answer.first_token_s - answer.began_s))
    connection.close()
    return statistics.median(found)


async def _small_requests(url: str, concurrency: int, seconds: float) -> int:
    """How many were answered."""
    request, ends_s = chat_request(echo_models.INSTANT, REQUEST_TOKENS), time.perf_counter() + seconds

    async def ask_on(connection: Connection) -> int:
        answers = [await connection.ask(request)]
        while time.perf_counter() < ends_s:
            answers.append(await connection.ask(request))
        connection.close()
        for answer in answers:
            checked(answer, REQUEST_TOKENS)
        return len(answers)

    connections = [await Connection.connect(url) for _ in range(concurrency)]
    return sum(await asyncio.gather(*map(ask_on, connections)))


async def _live_streams(url: str) -> list[float]:
    """How late each token was, in seconds, counted from the earliest that its stream allows."""

    async def ask_on(connection: Connection) -> list[float]:
        answer = await connection.ask(chat_request(echo_models.PACED, LIVE_TOKENS))
        checked(answer, LIVE_TOKENS)
        connection.close()
        beyond = [at_s - index * echo_models.PACE_S for index, at_s in enumerate(answer.token_times_s())]
        return [each - min(beyond) for each in beyond]

    connections = [await Connection.connect(url) for _ in range(LIVE_STREAMS)]
    return [late_s for found in await asyncio.gather(*map(ask_on, connections)) for late_s in found]


def _table(turns: dict[str, list[Turn]], settings: PairSettings) -> Table:
    backend = "a server beside the workers" if settings.is_upstream else "an echo in the workers"
    table = Table("median (least..most) of each side's turns", *turns, title=f"{settings.pairs} pairs, {backend}")

    def row(name: str, of: Callable[[Turn], float], form: str = ".2f") -> None:
        table.add_row(name, *(_spread([of(turn) for turn in found], form) for found in turns.values()))

    row(f"small streamed requests/s, {settings.concurrency} at once", lambda turn: turn.requests_per_s, ".0f")
    row("added ms to the first token, one request", lambda turn: turn.first_token_ms)
    for name in PROCESSES:
        row(f"CPU ms a request: {name}", lambda turn, name=name: turn.request_cpu_ms[name], ".3f")  # type: ignore[misc]
    for name in PROCESSES:
        row(f"CPU ms a live token: {name}", lambda turn, name=name: turn.token_cpu_ms[name], ".3f")  # type: ignore[misc]
    row("ms that a live token is late, p99", lambda turn: turn.late_p99_ms, ".1f")
    return table


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"
