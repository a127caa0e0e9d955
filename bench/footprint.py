"""What a bootstrap, a gateway and a worker without a model of its own take of a machine, p2pd included.

    python -m bench.footprint [--against CHECKOUT] [--rounds N]

Starts all three, as anyone would, on loopback; the worker lends a server that runs elsewhere. Memory is what each has
to itself (USS) and its resident set (RSS), in MB, a moment after it is ready; seconds are from the start of the process
to its ready file. With `--against` a checkout of another version is started in turns with this one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.harness.swarm import ROOT, Process, StartFailed, Swarm, swarm

MB = 1e6
TABLE_WIDTH = 120
SETTLED_S = 2.0
"""Then a start's garbage has been collected, and the others have been met."""


@dataclass(frozen=True)
class Footprint:
    """Of one process and its p2pd."""

    ready_s: float
    own_mb: float
    daemon_mb: float
    unshared_mb: float
    """Of both together, what nobody else has."""

    @property
    def resident_mb(self) -> float:
        return self.own_mb + self.daemon_mb


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    checkouts = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    found: dict[tuple[str, str], list[Footprint]] = {}
    try:
        for _ in range(options.rounds):
            for name, checkout in checkouts.items():
                for kind, footprint in _measure(checkout).items():
                    found.setdefault((kind, name), []).append(footprint)
    except KeyboardInterrupt:
        return 130
    except StartFailed as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    Console(highlight=False, width=TABLE_WIDTH).print(_table(found))
    return 0


def _measure(checkout: Path) -> dict[str, Footprint]:
    with swarm(checkout=checkout) as running:
        started: dict[str, tuple[Process, float]] = {}

        def start(kind: str, launch: Callable[[], Process]) -> Process:
            began_s = time.perf_counter()
            process = launch()
            assert process.ready
            started[kind] = process, time.perf_counter() - began_s
            return process

        bootstrap = start("bootstrap", running.bootstrap)
        start("gateway", lambda: running.gateway(bootstrap))
        start("worker, --upstream", lambda: _upstream_worker(running, bootstrap))
        time.sleep(SETTLED_S)
        return {kind: _footprint(process, ready_s) for kind, (process, ready_s) in started.items()}


def _upstream_worker(running: Swarm, bootstrap: Process) -> Process:
    server = running.plain_server()
    return running.worker(bootstrap, "--upstream", f"{server.ready['http']}/v1")


def _footprint(process: Process, ready_s: float) -> Footprint:
    assert process.daemon_pid is not None
    own, daemon = psutil.Process(process.pid), psutil.Process(process.daemon_pid)
    own_memory, daemon_memory = own.memory_full_info(), daemon.memory_full_info()
    unshared = own_memory.uss + daemon_memory.uss
    return Footprint(ready_s, own_memory.rss / MB, daemon_memory.rss / MB, unshared / MB)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a folder with another version")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def _table(found: dict[tuple[str, str], list[Footprint]]) -> Table:
    table = Table("peer", "checkout", "ready, s", "process, MB", "p2pd, MB", "both, MB", "both, unshared, MB")
    for (kind, name), footprints in sorted(found.items()):
        columns = (
            [each.ready_s for each in footprints],
            [each.own_mb for each in footprints],
            [each.daemon_mb for each in footprints],
            [each.resident_mb for each in footprints],
            [each.unshared_mb for each in footprints],
        )
        table.add_row(kind, name, *map(_spread, columns))
    return table


def _spread(values: Sequence[float]) -> str:
    digits = 1 if max(values) < 10 else 0
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
