"""Sums up the last hour in steps: requests, failures, tokens, times to the first token.

A function of reports and `now`. Knows nothing of where reports come from, keeps no clock, and holds no more than an
hour.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gateway.observability.outcomes import is_success, is_unserved
from gateway.observability.reports import RequestReport
from gateway.peers.pace import quantile

STEP_S = 10
"""Short enough to see a worker go, long enough that an hour is 360 points."""

STEPS = 360

MAX_FIRST_TOKENS = 256
"""Times kept of one step. More would move its median by less than what a chart shows."""

RATE_S = 60.0
"""What rates "now" are taken over, and what the page smooths its charts over, so that both say the same. Ten seconds of
a small network are either nothing or a burst."""


@dataclass(frozen=True)
class Span:
    """So many tokens came from one worker between these two moments, in Unix seconds."""

    began_s: float
    ended_s: float
    tokens: int

    def within(self, since_s: float, until_s: float) -> float:
        """The tokens that came in this time, if they came evenly."""
        if self.ended_s <= self.began_s:
            return self.tokens if since_s <= self.ended_s < until_s else 0.0
        overlap_s = min(self.ended_s, until_s) - max(self.began_s, since_s)
        return self.tokens * max(0.0, overlap_s) / (self.ended_s - self.began_s)


@dataclass(frozen=True)
class Point:
    """One step: the requests that ended in it, how many of them failed, and the tokens that came in it."""

    requests: int
    failures: int
    tokens: float
    first_token_p50_s: float | None
    first_token_p95_s: float | None


@dataclass(frozen=True)
class Series:
    """Points of `step_s` seconds each, oldest first; the last one ends at `end_unix_s`."""

    step_s: int
    end_unix_s: float
    points: Sequence[Point]


@dataclass(frozen=True)
class Rates:
    """Averages over the last RATE_S seconds."""

    requests_per_s: float
    tokens_per_s: float


@dataclass
class _Step:
    requests: int = 0
    failures: int = 0
    tokens: float = 0.0
    first_tokens_s: list[float] = field(default_factory=list)

    def point(self) -> Point:
        ranked = sorted(self.first_tokens_s)
        return Point(self.requests, self.failures, round(self.tokens, 1), quantile(ranked, 0.5), quantile(ranked, 0.95))


class Timeline:
    """Times are Unix seconds. Steps begin at multiples of STEP_S, so that two gateways show the same ones."""

    def __init__(self) -> None:
        self._steps: dict[int, _Step] = {}
        self._ends_s: deque[float] = deque()
        self._spans: deque[Span] = deque()

    def note(self, report: RequestReport) -> None:
        """A request is over. Reports come in the order of their ends."""
        ended_s = report.arrived_unix_s + report.duration_s
        step = self._step(ended_s)
        step.requests += 1
        step.failures += is_unserved(report.outcome)
        first_token_s = report.first_token_s if is_success(report.outcome) and report.task == "generate" else None
        if first_token_s is not None and len(step.first_tokens_s) < MAX_FIRST_TOKENS:
            step.first_tokens_s.append(first_token_s)
        for span in spans_of(report):
            self._spread(span)
            self._spans.append(span)
        self._ends_s.append(ended_s)
        self._forget(ended_s)

    def series(self, now_s: float, running: Iterable[Span] = ()) -> Series:
        """The last whole steps. Answers that are still `running` are counted as far as they have come."""
        last = int(now_s // STEP_S)
        under_way = list(running)
        numbers = range(last - STEPS, last)
        points = [self._steps.get(number, _Step()).point() for number in numbers]
        for index, number in enumerate(numbers):
            began_s = number * STEP_S
            more = sum(span.within(began_s, began_s + STEP_S) for span in under_way if span.ended_s > began_s)
            if more:
                points[index] = _with_tokens(points[index], more)
        return Series(STEP_S, float(last * STEP_S), points)

    def rates(self, now_s: float, running: Iterable[Span] = ()) -> Rates:
        since_s = now_s - RATE_S
        requests = sum(ended_s > since_s for ended_s in self._ends_s)
        tokens = sum(span.within(since_s, now_s) for span in (*self._spans, *running))
        return Rates(requests / RATE_S, tokens / RATE_S)

    def _step(self, moment_s: float) -> _Step:
        return self._steps.setdefault(int(moment_s // STEP_S), _Step())

    def _spread(self, span: Span) -> None:
        first, last = int(span.began_s // STEP_S), int(span.ended_s // STEP_S)
        for number in range(max(first, last - STEPS), last + 1):
            began_s = number * STEP_S
            if tokens := span.within(began_s, began_s + STEP_S):
                self._steps.setdefault(number, _Step()).tokens += tokens

    def _forget(self, now_s: float) -> None:
        oldest = int(now_s // STEP_S) - STEPS
        while len(self._steps) > STEPS and (number := min(self._steps)) < oldest:
            del self._steps[number]
        while self._ends_s and self._ends_s[0] <= now_s - RATE_S:
            self._ends_s.popleft()
        while self._spans and self._spans[0].ended_s <= now_s - RATE_S:
            self._spans.popleft()


def spans_of(report: RequestReport) -> list[Span]:
    """What each worker has given to a request."""
    spans = []
    for attempt in report.attempts:
        if attempt.tokens and attempt.first_token_s is not None:
            began_s = report.arrived_unix_s + attempt.began_s
            spans.append(Span(began_s + attempt.first_token_s, began_s + attempt.duration_s, attempt.tokens))
    return spans


def _with_tokens(point: Point, more: float) -> Point:
    return Point(
        point.requests,
        point.failures,
        round(point.tokens + more, 1),
        point.first_token_p50_s,
        point.first_token_p95_s,
    )
