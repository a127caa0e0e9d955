"""The runs of all contenders as tables, and ours held against the aims."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.engine.jobs import ANSWER_TOKENS
from bench.engine.runs import Run

ONE, EIGHT, POISSON = "one", "eight", "Poisson"
SEQUENTIAL, STATIC, CONTINUOUS, OURS = "generate", "static batch", "generate_batch", "p2pnet"

AIM_OVER_SEQUENTIAL, AIM_OVER_CONTINUOUS = 4.5, 1.2


def ratio(runs: Sequence[Run], workload: str, measured: str, other: str) -> list[float]:
    """Ours to another contender's, round by round."""
    ours = [getattr(run, measured) for run in runs if (run.contender, run.workload) == (OURS, workload)]
    theirs = [getattr(run, measured) for run in runs if (run.contender, run.workload) == (other, workload)]
    return [one / two for one, two in zip(ours, theirs, strict=True)]


def show(runs: Sequence[Run], console: Console) -> None:
    for workload in (ONE, EIGHT, POISSON):
        table = Table("", title=f"{workload}, {ANSWER_TOKENS} tokens each, median of rounds (least..most)")
        for column in ("tokens/s", "first token s", "last token s", "memory grown by MB"):
            table.add_column(column, justify="right")
        for name in (SEQUENTIAL, STATIC, CONTINUOUS, OURS):
            found = [run for run in runs if (run.contender, run.workload) == (name, workload)]
            if found:
                table.add_row(
                    name,
                    _spread([run.tokens_per_s for run in found], ".1f"),
                    _spread([run.median_first_s for run in found], ".2f"),
                    _spread([run.median_last_s for run in found], ".2f"),
                    _spread([run.peak_mb for run in found], ".0f"),
                )
        console.print(table)
    for workload, other, aim in (
        (EIGHT, SEQUENTIAL, AIM_OVER_SEQUENTIAL),
        (EIGHT, CONTINUOUS, AIM_OVER_CONTINUOUS),
        (EIGHT, STATIC, 1.0),
        (ONE, SEQUENTIAL, 1.0),
    ):
        if ratios := ratio(runs, workload, "tokens_per_s", other):
            met = "met" if statistics.median(ratios) >= aim else "not met"
            console.print(
                f"{workload}: tokens/s {_spread(ratios, '.2f')} times those of {other}; aim at least {aim}: {met}"
            )
    for other in (SEQUENTIAL, CONTINUOUS):
        for measured in ("median_first_s", "median_last_s"):
            if ratios := ratio(runs, POISSON, measured, other):
                met = "met" if statistics.median(ratios) < 1 else "not met"
                console.print(
                    f"{POISSON}: {measured} {_spread(ratios, '.2f')} times that of {other}; aim below 1: {met}"
                )


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"
