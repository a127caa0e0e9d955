"""Workers die under load; what do the clients see?

    python -m bench.faults [--scene many|gaps|tiny]... [--seed N] [--json [FILE]]

`many`: 500 streams at once over eight workers, each of which is killed. `gaps`: fewer and faster streams, and faults so
far apart that the worker of the one before is back, so that the machine has time to spare; each worker is killed,
killed together with its p2pd, stopped without a word (SIGSTOP), and loses its p2pd. `tiny`: the bundled model, greedy
and sampled. Every answer is compared with what it has to be. The added gap of a stream is the silence around the fault,
as its client sees it, minus the stream's usual silence between two tokens. The schedule follows from the seed, which is
printed. Exit status 1 when an answer was lost or wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from bench.harness.chain_model import chain_text
from bench.harness.storm import Herd, Kind, Outcome, enough_tokens, schedule, storm, wait_for_workers
from bench.harness.swarm import StartFailed, Swarm, swarm
from bench.harness.timed_client import Answered, ChatRequest, ask

AIMS_S = {Kind.KILL: 0.15, Kind.STOP: 1.5}
"""For the median added gap on loopback."""

MODEL = "chain"
SERVED_FILE = "served.log"
TINY_TOKENS = 1200
"""Some seconds of it, with the others at the same time."""
TABLE_WIDTH = 120


@dataclass(frozen=True)
class Scene:
    """How many streams, of what speed, over how many workers, and what is done to these: one kind after the other, each
    with streams of its own, since a long answer takes longer to be taken over. `delay_ms` is between two tokens; None
    is the tiny model, as fast as it can. Two faults are about `spacing_s` apart; to start a worker again takes some
    seconds of a core."""

    streams: int
    workers: int
    kinds: tuple[Kind, ...]
    delay_ms: float | None
    spacing_s: float = 6.0
    away_s: float = 1.5


SCENES = {
    "many": Scene(streams=500, workers=8, kinds=(Kind.KILL,), delay_ms=250),
    "gaps": Scene(
        streams=40, workers=4, kinds=(Kind.KILL, Kind.GONE, Kind.STOP, Kind.P2PD), delay_ms=40, spacing_s=12.0
    ),
    "tiny": Scene(streams=12, workers=3, kinds=(Kind.KILL,), delay_ms=None, spacing_s=2.5, away_s=0.5),
}


@dataclass(frozen=True)
class Gaps:
    """Seconds that a fault of this kind added to the streams that it cut."""

    kind: Kind
    faults: int
    cut: int
    median_s: float
    p90_s: float
    p99_s: float
    longest_s: float


@dataclass(frozen=True)
class Report:
    """One scene. `ended` counts how the streams ended: "whole" and right, or how not."""

    scene: Scene
    seed: int
    took_s: float
    ended: dict[str, int]
    gaps: tuple[Gaps, ...]
    load_average: float

    @property
    def is_faultless(self) -> bool:
        return set(self.ended) == {"whole"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json == "-", highlight=False, width=TABLE_WIDTH)
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    reports = {}
    try:
        for name in options.scene or SCENES:
            console.print(f"{name}, seed {seed} ...")
            reports[name] = run_scene(_sized(SCENES[name], options), seed)
            _print(name, reports[name], console)
    except KeyboardInterrupt:
        return 130
    except (StartFailed, TimeoutError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        text = json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0 if all(report.is_faultless for report in reports.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", action="append", choices=list(SCENES), help="this one; repeatable; default: all")
    parser.add_argument("--seed", type=int, help="of the schedule; default: a random one, which is printed")
    parser.add_argument("--streams", type=int, help="instead of the scene's own number")
    parser.add_argument("--workers", type=int, help="instead of the scene's own number")
    parser.add_argument("--delay-ms", type=float, help="between two tokens, instead of the scene's own; not for tiny")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


def _sized(scene: Scene, options: argparse.Namespace) -> Scene:
    return replace(
        scene,
        streams=options.streams or scene.streams,
        workers=options.workers or scene.workers,
        delay_ms=scene.delay_ms if scene.delay_ms is None else options.delay_ms or scene.delay_ms,
    )


def run_scene(scene: Scene, seed: int) -> Report:
    """In a swarm of its own. Raises StartFailed, or TimeoutError when the workers are not found."""
    rng = random.Random(seed)
    began_s = time.monotonic()
    with swarm() as running:
        outcome, reference = (_tiny if scene.delay_ms is None else _chain)(running, scene, rng)
    return Report(
        scene=scene,
        seed=seed,
        took_s=time.monotonic() - began_s,
        ended=dict(Counter(_end_of(answer, reference) for answer in outcome.answers)),
        gaps=tuple(gaps for kind in scene.kinds if (gaps := _gaps(outcome, kind)) is not None),
        load_average=os.getloadavg()[0],
    )


Reference = Callable[[ChatRequest], str]


def _chain(running: Swarm, scene: Scene, rng: random.Random) -> tuple[Outcome, Reference]:
    assert scene.delay_ms is not None
    delay_s = scene.delay_ms / 1000
    bootstrap = running.bootstrap()
    arguments = ("--chain", MODEL, "--delay-ms", str(scene.delay_ms), "--served-file", SERVED_FILE)
    herd = Herd(lambda: running.echo_worker(bootstrap, *arguments), scene.workers, SERVED_FILE)
    url = str(running.gateway(bootstrap).ready["http"])
    herd.wait_ready()

    async def suffer(kind: Kind) -> Outcome:
        faults = schedule(rng, scene.workers, (kind,), scene.spacing_s)
        requests = [
            ChatRequest(
                f"{kind.name}-{n}",
                MODEL,
                f"{kind} stream {n}",
                enough_tokens(faults, delay_s),
                seed=rng.getrandbits(63),
            )
            for n in range(scene.streams)
        ]
        await wait_for_workers(url, MODEL, scene.workers)
        return await storm(url, herd, requests, faults, scene.away_s)

    async def run() -> Outcome:
        outcomes = [await suffer(kind) for kind in scene.kinds]
        return Outcome(
            tuple(answer for outcome in outcomes for answer in outcome.answers),
            tuple(strike for outcome in outcomes for strike in outcome.strikes),
        )

    def reference(request: ChatRequest) -> str:
        return chain_text(request.prompt, request.seed, request.tokens)

    return uvloop.run(run()), reference


def _tiny(running: Swarm, scene: Scene, rng: random.Random) -> tuple[Outcome, Reference]:
    """Half of them greedy. The reference is what an undisturbed worker said."""
    requests = [
        ChatRequest(f"tiny-{n}", "tiny", f"Tell me number {n}.", TINY_TOKENS, rng.getrandbits(63), float(n % 2))
        for n in range(scene.streams)
    ]
    bootstrap = running.bootstrap()
    slots = ("--max-concurrency", str(scene.streams))
    herd = Herd(lambda: running.worker(bootstrap, "--model", "tiny", *slots), scene.workers, None)
    url = str(running.gateway(bootstrap).ready["http"])
    herd.wait_ready()
    texts: dict[ChatRequest, str] = {}

    async def run() -> Outcome:
        await wait_for_workers(url, "tiny", scene.workers)
        for request in requests:
            texts[request] = (await ask(url, request)).text
        faults = schedule(rng, scene.workers, scene.kinds, scene.spacing_s)
        return await storm(url, herd, requests, faults, scene.away_s, opening_s=0.1)

    return uvloop.run(run()), texts.__getitem__


def _end_of(answer: Answered, reference: Reference) -> str:
    if answer.is_complete:
        return "whole" if answer.text == reference(answer.request) else "wrong text"
    return f"lost: {answer.error or 'connection closed'}"


def _gaps(outcome: Outcome, kind: Kind) -> Gaps | None:
    found = sorted(outcome.added_gaps(kind))
    if not found:
        return None
    return Gaps(
        kind=kind,
        faults=sum(struck.fault.kind is kind for struck in outcome.strikes),
        cut=len(found),
        median_s=quantile(found, 0.5),
        p90_s=quantile(found, 0.9),
        p99_s=quantile(found, 0.99),
        longest_s=found[-1],
    )


def quantile(ranked: Sequence[float], q: float) -> float:
    return ranked[min(len(ranked) - 1, int(q * len(ranked)))]


def _print(name: str, report: Report, console: Console) -> None:
    scene = report.scene
    speed = "as fast as it can" if scene.delay_ms is None else f"a token every {scene.delay_ms:g} ms"
    ended = ", ".join(f"{count} {how}" for how, count in sorted(report.ended.items()))
    console.print(
        f"{name}: {scene.streams} streams at once, {speed}, over {scene.workers} workers; {ended}. "
        f"{report.took_s:.0f} s, {os.cpu_count()} cores, load average {report.load_average:.1f}."
    )
    if not report.gaps:
        return
    table = Table("fault", *("faults", "streams cut", "median", "p90", "p99", "longest", "aim"), title="added gap, s")
    for gaps in report.gaps:
        aim_s = AIMS_S.get(gaps.kind)
        values = (gaps.median_s, gaps.p90_s, gaps.p99_s, gaps.longest_s)
        aim = "" if aim_s is None else f"< {aim_s:g}"
        table.add_row(gaps.kind, str(gaps.faults), str(gaps.cut), *(f"{value:.3f}" for value in values), aim)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
