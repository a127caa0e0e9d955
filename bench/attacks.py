"""What is left of the honest requests while a swarm is attacked?

    python -m bench.attacks [NAME...] [--seconds S] [--clients N] [--workers N] [--json [FILE]]

Each attack of bench/harness/attacks has a swarm of its own, started as anyone would start it, on loopback. Honest
clients, each with one request at a time, ask as fast as they are answered: before the attack, while it lasts, and after
it, all in one run, so that a busy machine is in all three. What the attack itself computes is taken from the same
cores. Exit status 1 when one of the aims of docs/threats.md is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pkgutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.harness import attacks
from bench.harness.siege import MAX_GROWTH_MB, MIN_SHARE, Besieged, end, siege
from bench.harness.swarm import StartFailed
from bench.harness.target import Attack
from bench.harness.vitals import Vitals

TABLE_WIDTH = 120


@dataclass(frozen=True)
class Report:
    """One attack. Right answers in a second, and by how much the process that grew most has grown."""

    before_per_s: float
    during_per_s: float
    after_per_s: float
    growth_mb: float
    grew_most: str
    dead: tuple[str, ...]
    load_average: float

    @property
    def ratio(self) -> float:
        return self.during_per_s / self.before_per_s

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
            with siege(options.workers) as besieged:
                reports[name] = asyncio.run(measure(besieged, attack_of(name), options.clients, options.seconds))
    except KeyboardInterrupt:
        return 130
    except (StartFailed, TimeoutError) as error:
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


async def measure(besieged: Besieged, attack: Attack, clients: int, seconds: float) -> Report:
    """So many seconds before, as many during, and as many after the attack."""
    before_per_s = await _rate(besieged, clients, seconds)
    vitals = Vitals(besieged.processes)
    async with vitals.watched():
        under_way = asyncio.ensure_future(attack(besieged.target))
        during_per_s = await _rate(besieged, clients, seconds)
        await end(under_way)
        after_per_s = await _rate(besieged, clients, seconds)
    grew_most, growth_mb = max(vitals.growth_mb.items(), key=lambda item: item[1])
    return Report(before_per_s, during_per_s, after_per_s, growth_mb, grew_most, vitals.dead, os.getloadavg()[0])


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
    parser.add_argument("--seconds", type=float, default=10.0, help="before, during and after, each")
    parser.add_argument("--clients", type=int, default=4, help="honest ones, each with one request at a time")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON too; alone: to stdout")
    return parser


def _table(reports: dict[str, Report]) -> Table:
    columns = ("before/s", "during/s", "after/s", "during : before", "grew most", "MB", "gone")
    table = Table("attack", *columns, title="honest requests answered")
    for name, report in reports.items():
        rates = (report.before_per_s, report.during_per_s, report.after_per_s)
        row = (*(f"{rate:.1f}" for rate in rates), f"{report.ratio:.2f}", report.grew_most, f"{report.growth_mb:.0f}")
        table.add_row(name, *row, ", ".join(report.dead))
    return table


if __name__ == "__main__":
    sys.exit(main())
