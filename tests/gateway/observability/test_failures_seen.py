"""What went wrong and what was done about it, as one table."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.observability.failures import failures_of
from gateway.observability.reports import CANCELLED, AttemptReport
from tests.gateway.reports import NOON_S, attempt, report


def lost(worker: str = "ann", tokens: int = 4, **changes: Any) -> AttemptReport:
    return attempt(worker, "peer_lost", tokens=tokens, **changes)


def later(worker: str = "bob", **changes: Any) -> AttemptReport:
    return attempt(worker, **{"began_s": 1.0, "duration_s": 2.0, **changes})


@pytest.mark.parametrize(
    ("attempts", "outcome", "expected"),
    [
        ([attempt()], "stop", []),
        ([attempt(outcome=CANCELLED)], CANCELLED, []),
        ([attempt(outcome="busy", tokens=0), later()], "stop", []),
        ([lost(), later()], "stop", [("ann", "peer_lost", "resumed", "bob")]),
        ([lost(tokens=0), later()], "stop", [("ann", "peer_lost", "retried", "bob")]),
        ([lost()], "no_worker", [("ann", "peer_lost", "gave_up", None)]),
        ([lost(), later(outcome="busy", tokens=0)], "no_worker", [("ann", "peer_lost", "gave_up", None)]),
        (
            [lost(), lost("bob", began_s=1.0), later("cid", began_s=2.0)],
            "stop",
            [("bob", "peer_lost", "resumed", "cid"), ("ann", "peer_lost", "resumed", "bob")],
        ),
        ([], "no_worker", [(None, "no_worker", "gave_up", None)]),
        ([attempt(outcome="wrong_receipt")], "stop", [("ann", "wrong_receipt", "given", None)]),
        ([attempt(outcome="invalid_request", tokens=0)], "invalid_request", []),
        # a second worker asked beside a late one
        (
            [
                attempt(outcome=CANCELLED, tokens=0, duration_s=1.5),
                later("bob", is_hedge=True),
            ],
            "stop",
            [("ann", "late", "hedged", "bob")],
        ),
        ([later("ann", began_s=0.0), attempt("bob", CANCELLED, tokens=0, is_hedge=True)], "stop", []),
        # several answers go on apart
        (
            [lost(), later("bob", choice=0), later("cid", choice=1, began_s=1.5)],
            "stop",
            [("ann", "peer_lost", "resumed", "bob")],
        ),
        (
            [lost(choice=1), later("bob", choice=0), later("cid", choice=1, began_s=1.5)],
            "stop",
            [("ann", "peer_lost", "resumed", "cid")],
        ),
    ],
)
def test_what_was_done(attempts: list[AttemptReport], outcome: str, expected: list[tuple[Any, ...]]) -> None:
    found = failures_of([report(*attempts, outcome=outcome)], 10)
    assert [(one.worker, one.outcome, one.done, one.by) for one in found] == expected


def test_a_resumed_answer_says_when_and_how_long_it_paused() -> None:
    (found,) = failures_of([report(lost(began_s=0.5), later(), gap_s=0.12)], 10)
    assert (found.at_unix_s, found.gap_s) == (NOON_S + 1.5, 0.12)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        ([], []),
        ([lost()], [("ann", "going_on", None)]),
        ([lost(), later("bob", outcome="peer_lost")], [("bob", "going_on", None), ("ann", "resumed", "bob")]),
    ],
)
def test_of_a_request_under_way_nobody_has_given_up(
    attempts: list[AttemptReport], expected: list[tuple[Any, ...]]
) -> None:
    over = report(lost("eve"), outcome="no_worker")
    *found, last = failures_of([over], 10, [report(*attempts, outcome=CANCELLED)])
    assert [(one.worker, one.done, one.by) for one in found] == expected
    assert (last.worker, last.done) == ("eve", "gave_up")


def test_only_so_many_are_told() -> None:
    assert len(failures_of((report(lost(), later()) for _ in range(99)), 7)) == 7
