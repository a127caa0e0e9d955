"""How long requests take under several ways to choose a worker: a simulation, with tables, JSON and plots.

    python -m bench.routing.sim                                   the grid: ages of records, loads, numbers of gateways
    python -m bench.routing.sim --large 10000                     one scenario of so many workers
    python -m bench.routing.sim --fairness                        three gateways on the same workers
    python -m bench.routing.sim --prefixes                        conversations, with and without affinity
    python -m bench.routing.sim --compared                        ours, by how many workers it compares

The worlds are in `bench.routing.world`, the ways to choose in `bench.routing.policies`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.routing.machine import Job
from bench.routing.plots import plot_grid
from bench.routing.policies import NEEDS_RECORDS, POLICIES, VARIANTS
from bench.routing.rows import Row, row_of
from bench.routing.scenario import Scenario
from bench.routing.world import World

AGES_S = (2.0, 10.0, 30.0, 60.0)
LOADS = (0.7, 0.9)
GATEWAYS = (3, 10)
LARGE_POLICIES = ("random", "round robin", "two choices", "ours")
"""The others look at all workers for each request, and would take too long."""
QUOTA = 0.5


def simulate(policy: str, scenario: Scenario) -> tuple[Row, list[Job]]:
    began_s = time.perf_counter()
    jobs = World(scenario, (POLICIES | VARIANTS)[policy]()).run()
    row = row_of(policy, scenario, jobs, time.perf_counter() - began_s)
    print(
        f"{policy}: 95 % wait {row.wait_p95:.2f} s, whole {row.whole_p95:.2f} s ({row.took_s:.0f} s)", file=sys.stderr
    )
    return row, jobs


def grid(base: Scenario, policies: Sequence[str]) -> Iterator[Row]:
    """Every policy at every load and number of gateways; those that read records at every age of them."""
    for load in LOADS:
        for gateways in GATEWAYS:
            for policy in policies:
                row: Row | None = None
                for age_s in AGES_S:
                    scenario = replace(base, load=load, gateways=gateways, age_s=age_s)
                    if row is None or policy in NEEDS_RECORDS:
                        row, _ = simulate(policy, scenario)
                    yield replace(row, scenario=scenario)


def fairness(base: Scenario) -> Iterator[Row]:
    """Three gateways: each one's share of what it asks for, with equal demand, and with one that asks for far more."""
    for shares, load in (((1.0, 1.0, 1.0), 0.9), ((8.0, 1.0, 1.0), 0.9), ((8.0, 1.0, 1.0), 1.1)):
        for quota in (None, QUOTA):
            scenario = replace(base, gateways=3, shares=shares, load=load, quota=quota)
            _, jobs = simulate("ours", scenario)
            for index in range(3):
                own = [job for job in jobs if job.gateway.index == index]
                yield row_of(f"gateway {index} of {shares}, quota {quota}", scenario, own, 0.0)


def prefixes(base: Scenario) -> Iterator[Row]:
    for load in LOADS:
        scenario = replace(base, load=load, chats=base.workers * 10)
        for policy in ("ours", "ours, no affinity", "two choices"):
            yield simulate(policy, scenario)[0]


def compared(base: Scenario) -> Iterator[Row]:
    for load in LOADS:
        for policy in ("ours, 2 compared", "ours, 4 compared", "ours", "ours, 16 compared"):
            yield simulate(policy, replace(base, load=load, age_s=30.0))[0]


def table_of(rows: Sequence[Row]) -> Table:
    table = Table("load", "gateways", "age", "policy", "requests", "wait p50", "p95", "p99", "whole p50", "p95", "p99")
    for title in ("busy", "hits"):
        table.add_column(title)
    for row in rows:
        scenario, best = row.scenario, _best(rows, row.scenario)
        numbers = (row.wait_p50, row.wait_p95, row.wait_p99, row.whole_p50, row.whole_p95, row.whole_p99)
        table.add_row(
            f"{scenario.load:.0%}",
            str(scenario.gateways),
            f"{scenario.age_s:g} s",
            row.policy,
            str(row.requests),
            *(f"{number:.2f}" for number in numbers),
            f"{row.busy:.2f}",
            f"{row.hits:.2f}",
            style="bold" if row.policy != "oracle" and row.whole_p95 == best else None,
        )
    return table


def _best(rows: Sequence[Row], scenario: Scenario) -> float:
    return min((row.whole_p95 for row in rows if row.scenario == scenario and row.policy != "oracle"), default=0.0)


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """Where ours is more than 5 % behind the best of the others that could be built."""
    found = []
    for row in (row for row in rows if row.policy == "ours"):
        rivals = [other for other in rows if other.scenario == row.scenario and other.policy not in ("ours", "oracle")]
        for name in ("wait_p95", "whole_p95"):
            best = min(rivals, key=lambda other, name=name: getattr(other, name), default=None)
            if best is not None and getattr(row, name) > 1.05 * getattr(best, name):
                found.append(
                    f"{row.scenario}: {name} {getattr(row, name):.2f}, {best.policy} {getattr(best, name):.2f}"
                )
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=400.0, help="of simulated time that are measured")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slower", type=float, default=0.15, help="by how much each companion in a batch slows a step")
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--large", type=int, metavar="WORKERS", help="one scenario of so many workers")
    parser.add_argument("--fairness", action="store_true")
    parser.add_argument("--prefixes", action="store_true")
    parser.add_argument("--compared", action="store_true")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--plots", type=Path, help="write the grid's plots into this folder")
    return parser.parse_args()


def main() -> None:
    given = options()
    base = Scenario(workers=given.workers, seconds=given.seconds, seed=given.seed, slower_per_companion=given.slower)
    if given.large:
        large = replace(base, workers=given.large, seconds=min(given.seconds, 15.0), warm_up_s=30.0, cool_down_s=15.0)
        rows = [simulate(policy, large)[0] for policy in given.policies if policy in LARGE_POLICIES]
    elif given.fairness:
        rows = list(fairness(base))
    elif given.prefixes:
        rows = list(prefixes(base))
    elif given.compared:
        rows = list(compared(base))
    else:
        rows = list(grid(base, given.policies))
    console = Console(width=160)
    console.print(table_of(rows))
    for line in shortfalls(rows):
        console.print(f"more than 5 % behind: {line}")
    if given.json is not None:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if given.plots is not None:
        plot_grid(rows, given.plots)


if __name__ == "__main__":
    main()
