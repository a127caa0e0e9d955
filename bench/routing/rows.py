"""What came of one scenario: how long its requests waited, and how long they took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.routing.machine import Job
from bench.routing.scenario import Scenario


@dataclass(frozen=True)
class Row:
    """What came of one scenario, in seconds. `wait` is for the first token, beyond what it takes on an idle worker of
    median speed; `whole` is from arrival to the last token. `busy` (refusals) and `hits` are per request."""

    policy: str
    scenario: Scenario
    requests: int
    wait_p50: float
    wait_p95: float
    wait_p99: float
    whole_p50: float
    whole_p95: float
    whole_p99: float
    busy: float
    hits: float
    took_s: float


def quantile(values: Sequence[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def waits_of(jobs: Sequence[Job]) -> list[float]:
    return [max(0.0, job.first_s - job.arrived_s - job.idle_s) for job in jobs if job.first_s is not None]


def row_of(policy: str, scenario: Scenario, jobs: Sequence[Job], took_s: float) -> Row:
    waits, wholes = waits_of(jobs), [job.finished_s - job.arrived_s for job in jobs]
    return Row(
        policy,
        scenario,
        len(jobs),
        *(quantile(waits, q) for q in (0.5, 0.95, 0.99)),
        *(quantile(wholes, q) for q in (0.5, 0.95, 0.99)),
        sum(job.busy for job in jobs) / len(jobs),
        sum(job.is_hit for job in jobs) / len(jobs),
        took_s,
    )
