"""Reports what happened to one request, once it is over: for the history and the metrics. Data only.

Holds no text: neither prompt nor answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

CANCELLED = "cancelled"
"""The outcome of a request whose client went away, and of an attempt that was given up for another."""


@dataclass(frozen=True)
class AttemptReport:
    """One worker's part in a request. Seconds count from the attempt's own begin; `began_s` from the request's.

    `outcome` is a finish reason, an error's code, or CANCELLED. `tokens` are those it sent. `why` says how the worker
    was chosen. `is_hedge`: it was asked beside another that was late.
    """

    worker: str
    why: str
    began_s: float
    outcome: str
    duration_s: float
    first_token_s: float | None = None
    tokens: int = 0
    choice: int | None = None
    """Which of several answers it went on with; None is all of them."""
    is_hedge: bool = False


@dataclass(frozen=True)
class RequestReport:
    """A whole request. Seconds count from its arrival; `arrived_unix_s` is that moment.

    `gap_s` is the longest silence that a change of workers in mid-answer has cost; None when there was none.
    """

    request_id: str
    model: str
    task: str
    caller: str
    arrived_unix_s: float
    outcome: str
    queued_s: float
    duration_s: float
    first_token_s: float | None = None
    gap_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    attempts: tuple[AttemptReport, ...] = ()


Observer = Callable[[RequestReport], None]
"""Told of every request that is over. Must return at once, and never raise."""


class ReportObservers:
    """Several observers as one, told in the order in which they were added."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def add(self, *observers: Observer) -> None:
        self._observers += observers

    def __call__(self, report: RequestReport) -> None:
        for observe in self._observers:
            observe(report)
