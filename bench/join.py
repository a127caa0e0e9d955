"""How soon a worker that comes is used, and how soon one that goes is not missed.

    python -m bench.join [--json [FILE]]

Joining: seconds from a worker's ready model (it joins the network before it loads one) to the first answer of a
gateway that is asked for this model all the time. Leaving: two workers serve one model under a steady load, one of
them is killed with `kill -9`; what fails, and until when. Streams that were under way on it are lost after their first
token, and counted apart from requests that were refused. Every repetition has a swarm of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.harness import echo_models
from bench.harness.http_client import Answer, Connection, Stream, chat_request, models_request
from bench.harness.swarm import TRANSPORTS, Process, StartFailed, swarm

POLL_S = 0.02
WAIT_TIMEOUT_S = 60.0
DELAY_MS = 20.0
"""Between two tokens: a model of 50 tokens a second."""
TABLE_WIDTH = 150


@dataclass(frozen=True)
class Settings:
    transport: str
    repetitions: int
    rate_per_s: float
    tokens: int
    before_s: float
    after_s: float


@dataclass(frozen=True)
class Joined:
    """`joining_s` is what came before the model: the network's libraries, p2pd, meeting the others.

    The other times are seconds since the worker's model was ready: until it was announced, until a gateway had served
    a request with it.
    """

    joining_s: float
    announced_s: float
    served_s: float


@dataclass(frozen=True)
class Left:
    """What a `kill -9` cost. Times are seconds after it; None where nothing failed.

    `lost` streams broke after their first token, `refused` requests got none. `slowest_first_token_s` is over the
    requests that began after the kill and were served.
    """

    requests_after: int
    lost: int
    refused: int
    failed_before: int
    last_failure_s: float | None
    last_failing_start_s: float | None
    slowest_first_token_s: float
    usual_first_token_s: float


@dataclass(frozen=True)
class Report:
    cores: int | None
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float]
    settings: Settings
    joined: tuple[Joined, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True)
class _Asked:
    """One request of the steady load, in the seconds of `time.perf_counter`."""

    began_s: float
    ended_s: float
    first_token_s: float | None
    is_complete: bool


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    settings = Settings(
        transport=options.transport,
        repetitions=options.repetitions,
        rate_per_s=options.rate,
        tokens=options.tokens,
        before_s=options.before,
        after_s=options.after,
    )
    console = Console(stderr=options.json == "-", highlight=False, width=TABLE_WIDTH)
    load_before = os.getloadavg()
    joined: list[Joined] = []
    left: list[Left] = []
    try:
        for number in range(1, settings.repetitions + 1):
            console.print(f"Repetition {number} of {settings.repetitions} ...")
            joined.append(_join_once(settings))
            left.append(_leave_once(settings))
    except KeyboardInterrupt:
        return 130
    except (StartFailed, TimeoutError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    report = Report(os.cpu_count(), load_before, os.getloadavg(), settings, tuple(joined), tuple(left))
    _print(report, console)
    if options.json is not None:
        text = json.dumps(asdict(report), indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second of the steady load")
    parser.add_argument("--tokens", type=int, default=25, help=f"of each answer, one every {DELAY_MS:g} ms")
    parser.add_argument("--before", type=float, default=2.0, help="seconds of load before the kill")
    parser.add_argument("--after", type=float, default=12.0, help="seconds of load after the kill")
    parser.add_argument("--transport", choices=list(TRANSPORTS), default="both", help="what the peers listen on")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


# ---- joining


def _join_once(settings: Settings) -> Joined:
    with swarm(settings.transport) as running:
        bootstrap = running.bootstrap()
        url = str(running.gateway(bootstrap).ready["http"])
        worker = running.echo_worker(bootstrap, "--model", "newcomer")
        served_s = uvloop.run(_first_answer(url, "newcomer"))
        timings = worker.timings
        ready_s = timings["model_ready"]
        joining_s = timings["joined"] - timings["began"]
        return Joined(joining_s, timings["announced"] - ready_s, served_s - ready_s)


async def _first_answer(url: str, model: str) -> float:
    """Ask until there is an answer; returns the Unix time at which it was whole."""
    connection = await Connection.connect(url)
    request = chat_request(model, max_tokens=1)
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while True:
            if (await connection.ask(request)).status == 200:
                break
            await asyncio.sleep(POLL_S)
    connection.close()
    return time.time()


# ---- leaving


def _leave_once(settings: Settings) -> Left:
    with swarm(settings.transport) as running:
        bootstrap = running.bootstrap()
        workers = [running.echo_worker(bootstrap, "--model", "steady", "--delay-ms", str(DELAY_MS)) for _ in range(2)]
        url = str(running.gateway(bootstrap).ready["http"])
        assert all(worker.ready for worker in workers)
        return uvloop.run(_kill_under_load(url, workers[0], settings))


async def _kill_under_load(url: str, victim: Process, settings: Settings) -> Left:
    await _wait_for_workers(url, 2)
    loop = asyncio.get_running_loop()
    requests = [loop.create_task(_ask(url, settings, delay_s)) for delay_s in _starts(settings)]
    await asyncio.sleep(settings.before_s)
    killed_s = time.perf_counter()
    victim.kill()
    return _summary(await asyncio.gather(*requests), killed_s)


def _starts(settings: Settings) -> Iterator[float]:
    count = int((settings.before_s + settings.after_s) * settings.rate_per_s)
    return (number / settings.rate_per_s for number in range(count))


async def _wait_for_workers(url: str, count: int) -> None:
    connection = await Connection.connect(url)
    async with asyncio.timeout(WAIT_TIMEOUT_S):
        while True:
            models = json.loads((await connection.ask(models_request())).body())["data"]
            if models and models[0]["workers"] == count:
                break
            await asyncio.sleep(POLL_S)
    connection.close()


async def _ask(url: str, settings: Settings, delay_s: float) -> _Asked:
    await asyncio.sleep(delay_s)
    connection = await Connection.connect(url)
    began_s = time.perf_counter()
    try:
        answer: Answer | None = await connection.ask(chat_request("steady", settings.tokens))
    except ConnectionError:
        answer = None
    connection.close()
    if answer is None:
        return _Asked(began_s, time.perf_counter(), None, is_complete=False)
    stream = Stream.parse(answer.body())
    is_whole = answer.status == 200 and stream.is_complete and stream.text == echo_models.text_of(settings.tokens)
    return _Asked(began_s, answer.ended_s, answer.first_token_s, is_whole)


def _summary(asked: Sequence[_Asked], killed_s: float) -> Left:
    failed = [one for one in asked if not one.is_complete and one.ended_s >= killed_s]
    began_after = [one for one in asked if one.began_s >= killed_s]
    usual = [_first_token_after(one) for one in asked if one.is_complete and one.ended_s < killed_s]
    return Left(
        requests_after=len(began_after),
        lost=sum(one.first_token_s is not None for one in failed),
        refused=sum(one.first_token_s is None for one in failed),
        failed_before=sum(not one.is_complete and one.ended_s < killed_s for one in asked),
        last_failure_s=max((one.ended_s - killed_s for one in failed), default=None),
        last_failing_start_s=max((one.began_s - killed_s for one in failed), default=None),
        slowest_first_token_s=max((_first_token_after(one) for one in began_after if one.is_complete), default=0.0),
        usual_first_token_s=statistics.median(usual) if usual else 0.0,
    )


def _first_token_after(asked: _Asked) -> float:
    assert asked.first_token_s is not None, "a complete answer has tokens"
    return asked.first_token_s - asked.began_s


# ---- the tables


def _print(report: Report, console: Console) -> None:
    load = " -> ".join(f"{load[0]:.1f}" for load in (report.load_before, report.load_after))
    console.print(f"{report.cores} cores, load average {load}, transport: {report.settings.transport}\n")
    table = Table("", "median", "fastest", "slowest", title="A worker joins: seconds")
    for name, values in (
        ("joining, before the model is loaded", [one.joining_s for one in report.joined]),
        ("ready model to announced", [one.announced_s for one in report.joined]),
        ("ready model to first request served", [one.served_s for one in report.joined]),
    ):
        table.add_row(name, *(f"{value:.3f}" for value in (statistics.median(values), min(values), max(values))))
    console.print(table)
    settings = report.settings
    table = Table(
        title=f"kill -9 of one of two workers, {settings.rate_per_s:g} requests/s of "
        f"{settings.tokens * DELAY_MS / 1000:g} s each, watched for {settings.after_s:g} s"
    )
    for name in (
        "lost in mid-stream",
        "refused",
        "of requests after",
        "last failure after s",
        "last failing one began at s",
        "slowest first token s",
        "usual s",
    ):
        table.add_column(name, justify="right")
    for left in report.left:
        table.add_row(
            str(left.lost),
            str(left.refused),
            str(left.requests_after),
            _seconds(left.last_failure_s),
            _seconds(left.last_failing_start_s),
            _seconds(left.slowest_first_token_s),
            _seconds(left.usual_first_token_s),
        )
    console.print(table)


def _seconds(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
