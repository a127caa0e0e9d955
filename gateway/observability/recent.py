"""Keeps the last requests in memory, in pages, and what they say of each worker.

Knows nothing of files or clocks, and holds no more than it is told to.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gateway.observability.outcomes import is_failure, is_success
from gateway.observability.reports import AttemptReport, RequestReport
from gateway.peers.pace import mean, quantile

MAX_REQUESTS = 10_000
"""Kept: some 10 MB of memory and as much of the file, and a page of any filter is found within some 10 ms."""

MAX_ATTEMPTS = 32
"""Kept of one request: the last ones. Sixteen answers that each changed workers once are no more."""


@dataclass(frozen=True)
class Kept:
    """A report and its number: the later it came, the higher."""

    number: int
    report: RequestReport


@dataclass(frozen=True)
class RequestQuery:
    """Which reports to show, newest first: at most `limit`, numbered below `before`, with these properties. `worker` is
    one that took part. None is any."""

    limit: int
    before: int | None = None
    model: str | None = None
    worker: str | None = None
    outcome: str | None = None
    request_id: str | None = None

    def fits(self, kept: Kept) -> bool:
        report = kept.report
        return (
            (self.before is None or kept.number < self.before)
            and (self.model is None or report.model == self.model)
            and (self.outcome is None or report.outcome == self.outcome)
            and (self.request_id is None or report.request_id == self.request_id)
            and (self.worker is None or self.worker in [attempt.worker for attempt in report.attempts])
        )


@dataclass(frozen=True)
class WorkerStatistics:
    """What was measured of one worker. `requests` are all that were sent there; the rates and times are of those that
    say something: seconds of whole requests and up to the first token, of successes, and tokens per second of one
    answer after its first token. None is not measured."""

    requests: int = 0
    success_rate: float | None = None
    duration_mean_s: float | None = None
    duration_p95_s: float | None = None
    first_token_mean_s: float | None = None
    first_token_p95_s: float | None = None
    tokens_per_s: float | None = None


@dataclass(frozen=True)
class Given:
    """What one worker gave: answers that were complete, or the rest of them, and all tokens."""

    answers: int = 0
    tokens: int = 0


class Recent:
    """The newest reports. `kept` are those of an earlier run, oldest first."""

    def __init__(self, kept: Iterable[Kept] = (), max_requests: int = MAX_REQUESTS) -> None:
        self._max_requests = max_requests
        self._kept: deque[Kept] = deque()
        self._samples: dict[str, deque[_Sample]] = {}
        self._next_number = 1
        for one in kept:
            self._add(one)

    def __len__(self) -> int:
        return len(self._kept)

    def note(self, report: RequestReport) -> Kept:
        if len(report.attempts) > MAX_ATTEMPTS:
            report = dataclasses.replace(report, attempts=report.attempts[-MAX_ATTEMPTS:])
        kept = Kept(self._next_number, report)
        self._add(kept)
        return kept

    def page(self, query: RequestQuery) -> list[Kept]:
        """Newest first."""
        found: list[Kept] = []
        for kept in reversed(self._kept):
            if len(found) >= query.limit:
                break
            if query.fits(kept):
                found.append(kept)
        return found

    def measured(self, worker: str, since_unix_s: float) -> WorkerStatistics:
        """What the requests that were sent to this worker since then say of it."""
        return _statistics([sample for sample in self._samples.get(worker, ()) if sample.began_unix_s >= since_unix_s])

    def given(self, worker: str) -> Given:
        """What the kept requests have of this worker."""
        samples = self._samples.get(worker, ())
        return Given(sum(sample.is_good is True for sample in samples), sum(sample.tokens for sample in samples))

    def _add(self, kept: Kept) -> None:
        if len(self._kept) >= self._max_requests:
            self._drop_oldest()
        self._kept.append(kept)
        self._next_number = kept.number + 1
        for attempt in kept.report.attempts:
            self._samples.setdefault(attempt.worker, deque()).append(_Sample.of(kept.report, attempt))

    def _drop_oldest(self) -> None:
        """Each worker's samples are in the order of the reports."""
        for attempt in self._kept.popleft().report.attempts:
            samples = self._samples[attempt.worker]
            samples.popleft()
            if not samples:
                del self._samples[attempt.worker]


class _Sample(NamedTuple):
    """What one attempt says of its worker. `later_tokens` came in `later_s` after the first one. None says nothing."""

    began_unix_s: float
    is_good: bool | None
    duration_s: float | None = None
    first_token_s: float | None = None
    later_tokens: int = 0
    later_s: float = 0.0
    tokens: int = 0

    @classmethod
    def of(cls, report: RequestReport, attempt: AttemptReport) -> _Sample:
        began_unix_s = report.arrived_unix_s + attempt.began_s
        tokens = attempt.tokens if report.task == "generate" else 0
        if not is_success(attempt.outcome):
            is_good = False if is_failure(attempt.outcome) else None
            return cls(began_unix_s, is_good, tokens=tokens)
        if report.task != "generate" or attempt.first_token_s is None:
            return cls(began_unix_s, True, attempt.duration_s, tokens=tokens)
        later_s = max(0.0, attempt.duration_s - attempt.first_token_s)
        later_tokens = max(0, attempt.tokens - 1)
        return cls(began_unix_s, True, attempt.duration_s, attempt.first_token_s, later_tokens, later_s, tokens)


def _statistics(samples: Sequence[_Sample]) -> WorkerStatistics:
    told = [sample.is_good for sample in samples if sample.is_good is not None]
    durations_s = sorted(sample.duration_s for sample in samples if sample.duration_s is not None)
    first_tokens_s = sorted(sample.first_token_s for sample in samples if sample.first_token_s is not None)
    later_tokens = sum(sample.later_tokens for sample in samples)
    later_s = sum(sample.later_s for sample in samples)
    return WorkerStatistics(
        requests=len(samples),
        success_rate=mean(told),
        duration_mean_s=mean(durations_s),
        duration_p95_s=quantile(durations_s, 0.95),
        first_token_mean_s=mean(first_tokens_s),
        first_token_p95_s=quantile(first_tokens_s, 0.95),
        tokens_per_s=later_tokens / later_s if later_tokens and later_s else None,
    )
