"""Reports of requests that tests make up."""

from __future__ import annotations

from typing import Any

from gateway.observability.reports import AttemptReport, RequestReport

NOON_S = 1_700_000_000.0
"""Unix time of the first request."""


def attempt(worker: str = "ann", outcome: str = "stop", **changes: Any) -> AttemptReport:
    fields: dict[str, Any] = {"began_s": 0.0, "duration_s": 1.0, "first_token_s": 0.2, "tokens": 9}
    return AttemptReport(worker=worker, why="quicker", outcome=outcome, **{**fields, **changes})


def report(*attempts: AttemptReport, **changes: Any) -> RequestReport:
    fields: dict[str, Any] = {
        "request_id": "request",
        "model": "tiny",
        "task": "generate",
        "caller": "10.1.2.3",
        "arrived_unix_s": NOON_S,
        "outcome": attempts[-1].outcome if attempts else "no_worker",
        "queued_s": 0.05,
        "duration_s": 1.5,
        "first_token_s": 0.5,
        "prompt_tokens": 7,
        "completion_tokens": 11,
    }
    return RequestReport(attempts=attempts, **{**fields, **changes})
