"""The last hour in steps, as tables."""

from __future__ import annotations

import pytest

from gateway.observability.reports import CANCELLED
from gateway.observability.timeline import MAX_FIRST_TOKENS, RATE_S, STEP_S, STEPS, Point, Span, Timeline, spans_of
from tests.gateway.reports import NOON_S, attempt, report

NOTHING = Point(0, 0, 0.0, None, None)


@pytest.mark.parametrize(
    ("span", "since_s", "until_s", "tokens"),
    [
        (Span(0, 10, 100), 0, 10, 100),
        (Span(0, 10, 100), 5, 10, 50),
        (Span(0, 10, 100), -5, 5, 50),
        (Span(0, 10, 100), 2, 3, 10),
        (Span(0, 10, 100), 10, 20, 0),
        (Span(0, 10, 100), -10, 0, 0),
        (Span(5, 5, 7), 0, 10, 7),  # all at once
        (Span(5, 5, 7), 5, 10, 7),
        (Span(5, 5, 7), 0, 5, 0),
    ],
)
def test_tokens_come_evenly(span: Span, since_s: float, until_s: float, tokens: float) -> None:
    assert span.within(since_s, until_s) == pytest.approx(tokens)


def test_every_worker_of_a_request_has_its_span() -> None:
    lost = attempt("ann", "peer_lost", began_s=1.0, first_token_s=0.5, duration_s=2.0, tokens=4)
    silent = attempt("bob", "busy", began_s=3.0, first_token_s=None, tokens=0)
    rest = attempt("cid", began_s=4.0, first_token_s=0.5, duration_s=3.0, tokens=6)
    assert spans_of(report(lost, silent, rest)) == [
        Span(NOON_S + 1.5, NOON_S + 3.0, 4),
        Span(NOON_S + 4.5, NOON_S + 7.0, 6),
    ]


def test_an_hour_without_requests() -> None:
    series = Timeline().series(NOON_S + 3)
    assert (series.step_s, series.end_unix_s) == (STEP_S, NOON_S)
    assert series.points == [NOTHING] * STEPS


def test_requests_count_where_they_end_and_tokens_where_they_come() -> None:
    timeline = Timeline()
    answer = attempt(first_token_s=5.0, duration_s=25.0, tokens=40)
    timeline.note(report(answer, first_token_s=5.0, duration_s=25.0))
    assert timeline.series(NOON_S + 40).points[-4:] == [
        Point(0, 0, 10.0, None, None),
        Point(0, 0, 20.0, None, None),
        Point(1, 0, 10.0, 5.0, 5.0),
        NOTHING,
    ]


@pytest.mark.parametrize(
    ("outcome", "failures"),
    [
        ("stop", 0),
        ("length", 0),
        (CANCELLED, 0),
        ("invalid_request", 0),
        ("no_worker", 1),
        ("busy", 1),
        ("internal", 1),
    ],
)
def test_who_was_let_down(outcome: str, failures: int) -> None:
    timeline = Timeline()
    timeline.note(report(outcome=outcome))
    assert timeline.series(NOON_S + STEP_S).points[-1].failures == failures


def test_quantiles_are_of_the_samples() -> None:
    timeline = Timeline()
    for hundredths in range(1, 101):
        timeline.note(report(attempt(), first_token_s=hundredths / 100))
    last = timeline.series(NOON_S + STEP_S).points[-1]
    assert (last.requests, last.first_token_p50_s, last.first_token_p95_s) == (100, 0.5, 0.95)


def test_vectors_and_failures_have_no_first_token() -> None:
    timeline = Timeline()
    timeline.note(report(attempt(), task="embed"))
    timeline.note(report(attempt(outcome="peer_lost")))
    assert timeline.series(NOON_S + STEP_S).points[-1].first_token_p50_s is None


def test_answers_under_way_count_as_far_as_they_have_come() -> None:
    running = [Span(NOON_S, NOON_S + 15, 30)]
    timeline = Timeline()
    assert [point.tokens for point in timeline.series(NOON_S + 15, running).points[-2:]] == [0.0, 20.0]
    assert timeline.rates(NOON_S + 15, running).tokens_per_s == pytest.approx(30 / RATE_S)


def test_rates_are_of_the_last_minute() -> None:
    timeline = Timeline()
    for began_s in range(120):
        timeline.note(report(attempt(duration_s=1.0), arrived_unix_s=NOON_S + began_s, duration_s=1.0))
    rates = timeline.rates(NOON_S + 120)
    assert rates.requests_per_s == pytest.approx(1.0)
    assert rates.tokens_per_s == pytest.approx(9.0)
    assert timeline.rates(NOON_S + 150).requests_per_s == pytest.approx(0.5, abs=0.02)
    assert timeline.rates(NOON_S + 120 + RATE_S).requests_per_s == 0


def test_it_holds_an_hour_and_no_more() -> None:
    timeline = Timeline()
    for step in range(3 * STEPS):
        timeline.note(report(attempt(), arrived_unix_s=NOON_S + step * STEP_S))
        for _ in range(2):
            timeline.note(report(attempt(), arrived_unix_s=NOON_S + step * STEP_S))
    assert len(timeline._steps) <= STEPS + 1
    points = timeline.series(NOON_S + 3 * STEPS * STEP_S).points
    assert [point.requests for point in points] == [3] * STEPS


def test_a_step_full_of_requests_keeps_so_many_times() -> None:
    timeline = Timeline()
    for number in range(2 * MAX_FIRST_TOKENS):
        timeline.note(report(attempt(), first_token_s=0.1 if number < MAX_FIRST_TOKENS else 9.0))
    point = timeline.series(NOON_S + STEP_S).points[-1]
    assert (point.requests, point.first_token_p95_s) == (2 * MAX_FIRST_TOKENS, 0.1)
