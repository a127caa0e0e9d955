"""What is left of the honest requests while a swarm is attacked?

    python -m bench.attacks [NAME...] [--seconds S] [--clients N] [--workers N] [--json [FILE]]

Each attack of bench/harness/attacks has two swarms of its own, started as anyone would start them, on loopback. Honest
clients, each with one request at a time, ask the first as fast as they are answered, all in one run: in peace; while
the attack goes to the second swarm; while it goes to the first; and after it. The attack computes in a process of its
own, on the same cores, and so do those that defend themselves: the second figure says what is left by that alone, on a
machine that has to bear both. Exit status 1 when one of the aims of docs/threats.md is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import pkgutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.harness import attacks
from bench.harness.siege import MAX_GROWTH_MB, MIN_SHARE, Besieged, siege
from bench.harness.swarm import StartFailed
from bench.harness.target import Attack, Target
from bench.harness.vitals import Vitals

TABLE_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """One attack. Right answers in a second, and by how much the process that grew most has grown."""

    before_per_s: float
    elsewhere_per_s: float
    """While another swarm was attacked."""
    during_per_s: float
    after_per_s: float
    growth_mb: float
    grew_most: str
    dead: tuple[str, ...]
    load_average: float

    @property
    def ratio(self) -> float:
        return self.during_per_s / self.elsewhere_per_s

    @property
    def has_held(self) -> bool:
        return self.ratio >= MIN_SHARE and self.growth_mb <= MAX_GROWTH_MB and not self.dead


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json == "-", highlight=False, width=TABLE_WIDTH)
    reports = {}
    try:
        for name in options.name or names():
            console.print(f"{name} ...")
            with siege(options.workers) as besieged, siege(options.workers) as bystander:
                measured = measure(besieged, bystander.target, name, options.clients, options.seconds)
                reports[name] = asyncio.run(measured)
    except KeyboardInterrupt:
        return 130
    except (StartFailed, TimeoutError, RuntimeError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    console.print(_table(reports))
    if options.json is not None:
        text = json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2)
        print(text) if options.json == "-" else Path(options.json).write_text(text + "\n")
    return 0 if all(report.has_held for report in reports.values()) else 1


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(attacks.__path__))


def attack_of(name: str) -> Attack:
    attack: Attack = import_module(f"{attacks.__name__}.{name}").attack
    return attack


async def measure(besieged: Besieged, other: Target, name: str, clients: int, seconds: float) -> Report:
    """So many seconds in peace, as many with each swarm attacked, and as many after it."""
    before_per_s = await _rate(besieged, clients, seconds)
    with attacking(name, other):
        elsewhere_per_s = await _rate(besieged, clients, seconds)
    vitals = Vitals(besieged.processes)
    async with vitals.watched():
        with attacking(name, besieged.target):
            during_per_s = await _rate(besieged, clients, seconds)
        after_per_s = await _rate(besieged, clients, seconds)
    grew_most, growth_mb = max(vitals.growth_mb.items(), key=lambda item: item[1])
    rates = (before_per_s, elsewhere_per_s, during_per_s, after_per_s)
    return Report(*rates, growth_mb, grew_most, vitals.dead, os.getloadavg()[0])


@contextlib.contextmanager
def attacking(name: str, target: Target) -> Iterator[None]:
    """The attack goes on, in a process of its own. Raises RuntimeError when that has failed: then nothing is shown."""
    process = multiprocessing.get_context("spawn").Process(target=_attack, args=(name, target), daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            raise RuntimeError(f"the attack {name} has failed, with status {process.exitcode}")
    finally:
        process.terminate()
        process.join()


def _attack(name: str, target: Target) -> None:
    asyncio.run(_go_on(attack_of(name), target))


async def _go_on(attack: Attack, target: Target) -> None:
    """Until the process is ended."""
    await attack(target)
    await asyncio.Event().wait()


async def _rate(besieged: Besieged, clients: int, seconds: float) -> float:
    """Right answers in a second."""
    began_s = time.perf_counter()

    async def be_client() -> int:
        right = 0
        while time.perf_counter() - began_s < seconds:
            right += (await besieged.ask()).took_s is not None
        return right

    answered = await asyncio.gather(*(be_client() for _ in range(clients)))
    return sum(answered) / (time.perf_counter() - began_s)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*names(), []]  # argparse checks the default too
    parser.add_argument("name", nargs="*", choices=known, metavar="NAME", help=f"{', '.join(names())}; default: all")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure")
    parser.add_argument("--clients", type=int, default=4, help="honest ones, each with one request at a time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


def _table(reports: dict[str, Report]) -> Table:
    columns = ("in peace", "other attacked", "attacked", "after", "attacked : other", "grew most", "MB", "gone")
    table = Table("attack", *columns, title="honest requests answered in a second")
    for name, report in reports.items():
        rates = (report.before_per_s, report.elsewhere_per_s, report.during_per_s, report.after_per_s)
        row = (*(f"{rate:.1f}" for rate in rates), f"{report.ratio:.2f}", report.grew_most, f"{report.growth_mb:.0f}")
        table.add_row(name, *row, ", ".join(report.dead))
    return table


if __name__ == "__main__":
    sys.exit(main())
