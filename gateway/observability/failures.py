"""Tells what went wrong with requests, and what was done about it. A function of reports; holds nobody's text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from gateway.observability.outcomes import is_failure, is_success, is_unserved
from gateway.observability.reports import AttemptReport, RequestReport

LATE = "late"
"""What a worker did that was overtaken by another one, asked beside it."""

Remedy = Literal["resumed", "retried", "hedged", "going_on", "given", "gave_up"]
"""`resumed`: another went on in mid-answer; `retried`: another began; `hedged`: another was asked beside it, and was
quicker; `going_on`: that is under way, at another or until one is there; `given`: the client has the answer all the
same; `gave_up`: nobody could."""


@dataclass(frozen=True)
class FailureSeen:
    """A failure of `worker` at one request; None where nobody was there to serve it. `by` is who went on."""

    at_unix_s: float
    request_id: str
    model: str
    worker: str | None
    outcome: str
    done: Remedy
    by: str | None = None
    gap_s: float | None = None


def failures_of(
    reports: Iterable[RequestReport], limit: int, under_way: Iterable[RequestReport] = ()
) -> list[FailureSeen]:
    """The first `limit` of them: those of requests under way, by when they happened, and then in the order of the
    reports; of one request the latest first."""
    found = [failure for report in under_way for failure in _failures(report, is_over=False)]
    found.sort(key=lambda failure: failure.at_unix_s, reverse=True)
    for report in reports:
        if len(found) >= limit:
            break
        found += reversed(list(_failures(report)))
    return found[:limit]


def _failures(report: RequestReport, is_over: bool = True) -> Iterator[FailureSeen]:
    """In the order in which they happened."""
    has_told = not is_over
    for attempt in sorted(report.attempts, key=_end_s):
        if is_failure(attempt.outcome):
            has_told = True
            yield _failure(report, attempt, is_over)
        elif attempt.is_hedge and is_success(attempt.outcome):
            has_told = True
            yield from _overtaken(report, attempt)
    if not has_told and is_unserved(report.outcome):
        at_unix_s = report.arrived_unix_s + report.duration_s
        yield FailureSeen(at_unix_s, report.request_id, report.model, None, report.outcome, "gave_up")


def _failure(report: RequestReport, failed: AttemptReport, is_over: bool) -> FailureSeen:
    successor = _successor(report, failed)
    done: Remedy = "resumed" if failed.tokens else "retried"
    if successor is None:
        done = "given" if is_success(report.outcome) else "gave_up" if is_over else "going_on"
    return FailureSeen(
        at_unix_s=report.arrived_unix_s + _end_s(failed),
        request_id=report.request_id,
        model=report.model,
        worker=failed.worker,
        outcome=failed.outcome,
        done=done,
        by=None if successor is None else successor.worker,
        gap_s=report.gap_s if done == "resumed" else None,
    )


def _overtaken(report: RequestReport, hedge: AttemptReport) -> Iterator[FailureSeen]:
    late = [one for one in report.attempts if not one.is_hedge and one.began_s <= hedge.began_s < _end_s(one)]
    for one in late:
        at_unix_s = report.arrived_unix_s + hedge.began_s
        yield FailureSeen(at_unix_s, report.request_id, report.model, one.worker, LATE, "hedged", hedge.worker)


def _successor(report: RequestReport, failed: AttemptReport) -> AttemptReport | None:
    """Who gave the next tokens of the same answer; where several answers have parted at the failure, of any of them."""
    later = [
        attempt
        for attempt in report.attempts
        if attempt is not failed
        and _end_s(attempt) > _end_s(failed)
        and (attempt.tokens or is_success(attempt.outcome))
        and (failed.choice is None or attempt.choice == failed.choice)
    ]
    return min(later, key=lambda attempt: attempt.began_s, default=None)


def _end_s(attempt: AttemptReport) -> float:
    return attempt.began_s + attempt.duration_s
