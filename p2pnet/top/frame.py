"""Draws an overview as lines of text for a terminal of some size. A function of data alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from p2pnet.display.durations import duration, milliseconds
from p2pnet.display.printable import printable, short_id
from p2pnet.top.columns import Column, cut, fitted, smoothed, sparkline
from p2pnet.top.overview import Failure, Model, Overview, Worker

MAX_MODELS = 12
MAX_FAILURES = 5
CLOCK_S = 2.0
"""A clock that is wrong by more is said: peers refuse one another from three seconds on."""
RATE_S = 60.0
"""What a gateway takes its rates of now over."""
NEVER = "-"


class Kind(Enum):
    """What a line is, for whoever colours it."""

    TITLE = auto()
    HEADING = auto()
    PLAIN = auto()
    BAD = auto()


@dataclass(frozen=True)
class FrameLine:
    text: str
    kind: Kind = Kind.PLAIN


@dataclass(frozen=True)
class Size:
    """Of a terminal, in cells. Without a height there is room for everything."""

    width: int
    height: int | None = None


MODEL_COLUMNS = (
    Column("MODEL", max_width=32),
    Column("WORKERS", 9, is_number=True),
    Column("WELL", 7, is_number=True),
    Column("SLOTS", 6, is_number=True),
    Column("BUSY", 8, is_number=True),
    Column("WAITING", 5, is_number=True),
    Column("TOKENS/S", 4, is_number=True),
    Column("CONTEXT", 2, is_number=True),
    Column("TASKS", 1),
)
WORKER_COLUMNS = (
    Column("WORKER", max_width=24),
    Column("STATE", 9),
    Column("MODELS", 8, max_width=32),
    Column("BUSY", 7, is_number=True),
    Column("TOKENS/S", 6, is_number=True),
    Column("FIRST TOKEN", 4, is_number=True),
    Column("SUCCESS", 5, is_number=True),
    Column("REACHED", 3),
    Column("KNOWN FOR", 2, is_number=True),
    Column("WHY", 1, max_width=40),
)
FAILURE_COLUMNS = (
    Column("FAILED", max_width=8),
    Column("OUTCOME", 8),
    Column("DONE ABOUT IT", 7),
    Column("MODEL", 6, max_width=24),
    Column("WORKER", 5),
    Column("GAP", 3, is_number=True),
)


def frame(overview: Overview, now: datetime, size: Size) -> list[FrameLine]:
    """Top to bottom, no line wider and, as far as workers can be left out, no more lines than there is room for."""
    above = [*_summary(overview, now, size.width), *_history(overview, size.width), *_models(overview, size.width)]
    below = _failures(overview, size.width)
    room = None if size.height is None else size.height - len(above) - len(below)
    return [*above, *_workers(overview, now, size.width, room), *below][: size.height]


def _summary(overview: Overview, now: datetime, width: int) -> list[FrameLine]:
    gateway = overview.gateway
    up = "" if gateway.started is None else f", up {duration((now - gateway.started).total_seconds())}"
    title = f"gateway {short_id(gateway.id)} ({printable(gateway.agent)}){up}"
    state = "" if gateway.is_ready else ", not ready"
    if abs(gateway.clock_ahead_s) > CLOCK_S:
        way = "ahead" if gateway.clock_ahead_s > 0 else "behind"
        state += f", its clock is {abs(gateway.clock_ahead_s):.0f} s {way}"
    now_line = (
        f"{gateway.requests_per_s:.1f} requests/s, {gateway.tokens_per_s:.0f} tokens/s, "
        f"{gateway.in_flight} under way, {gateway.waiting} waiting"
    )
    return [FrameLine(cut(title + state, width), Kind.TITLE), FrameLine(cut(now_line, width))]


def _history(overview: Overview, width: int) -> list[FrameLine]:
    """The last hour in three lines, each with its highest value at the end. They are smoothed as the rates of now are,
    so that both say the same."""
    points, step_s = overview.series.points, max(overview.series.step_s, 0.1)
    window = max(1, round(RATE_S / step_s))
    requests = smoothed([point.requests / step_s for point in points], window)
    tokens = smoothed([point.tokens / step_s for point in points], window)
    waits = smoothed([point.first_token_p50_s for point in points], window)
    rows: Sequence[tuple[str, Sequence[float | None], str]] = (
        ("requests/s", requests, f"{_highest(requests) or 0:.1f}"),
        ("tokens/s", tokens, f"{_highest(tokens) or 0:,.0f}"),
        ("first token", waits, _wait(_highest(waits))),
    )
    label_width = max(len(label) for label, _, _ in rows) + 1
    peak_width = max(len(peak) for _, _, peak in rows) + len(" max ")
    room = width - label_width - peak_width
    if room < 8:
        return []
    return [
        FrameLine(cut(f"{label:<{label_width}}{sparkline(values, room):>{room}} max {peak}", width))
        for label, values, peak in rows
    ]


def _models(overview: Overview, width: int) -> list[FrameLine]:
    if not overview.models:
        return [FrameLine(""), FrameLine(cut("No worker serves a model at the moment.", width), Kind.BAD)]
    busiest = sorted(overview.models, key=lambda model: (-model.in_flight - model.waiting, -model.workers, model.id))
    lines = fitted(MODEL_COLUMNS, [_model_row(model) for model in busiest[:MAX_MODELS]], width)
    more = len(busiest) - MAX_MODELS
    rest = [FrameLine(cut(f"and {more} more", width))] if more > 0 else []
    return [*_table(lines, [not model.states.get("healthy") for model in busiest]), *rest]


def _workers(overview: Overview, now: datetime, width: int, room: int | None) -> list[FrameLine]:
    if not overview.workers.workers:
        return []
    workers = sorted(overview.workers.workers, key=lambda worker: (-worker.in_flight, worker.name, worker.id))
    lines = _table(
        fitted(WORKER_COLUMNS, [_worker_row(worker, now) for worker in workers], width),
        [worker.state != "healthy" for worker in workers],
    )
    hidden = overview.workers.total - len(workers)
    if room is not None and len(lines) > room:
        hidden += len(lines) - max(room - 1, 2)
        lines = lines[: max(room - 1, 2)]
    return [*lines, FrameLine(cut(f"and {hidden} more", width))] if hidden > 0 else lines


def _failures(overview: Overview, width: int) -> list[FrameLine]:
    failures = overview.failures.failures[:MAX_FAILURES]
    if not failures:
        return []
    lines = fitted(FAILURE_COLUMNS, [_failure_row(failure) for failure in failures], width)
    return _table(lines, [failure.done == "gave_up" for failure in failures])


def _table(lines: Sequence[str], is_bad: Sequence[bool]) -> list[FrameLine]:
    rows = (FrameLine(text, Kind.BAD if bad else Kind.PLAIN) for text, bad in zip(lines[1:], is_bad, strict=False))
    return [FrameLine(""), FrameLine(lines[0], Kind.HEADING), *rows]


def _model_row(model: Model) -> tuple[str, ...]:
    return (
        model.id,
        str(model.workers),
        str(model.states.get("healthy", 0)),
        str(model.slots),
        str(model.in_flight),
        str(model.waiting),
        NEVER if model.tokens_per_s is None else f"{model.tokens_per_s:.1f}",
        NEVER if model.context_length is None else str(model.context_length),
        ", ".join(model.tasks),
    )


def _worker_row(worker: Worker, now: datetime) -> tuple[str, ...]:
    measured = worker.measured
    return (
        f"{worker.name} {short_id(worker.id)}".strip(),
        worker.state,
        ", ".join(dict.fromkeys(model.id for model in worker.models)),
        f"{worker.in_flight}/{worker.slots}",
        NEVER if measured.tokens_per_s is None else f"{measured.tokens_per_s:.1f}",
        _wait(measured.first_token_mean_s),
        NEVER if measured.success_rate is None else f"{100 * measured.success_rate:.0f} %",
        worker.reached,
        NEVER if worker.since is None else duration((now - worker.since).total_seconds()),
        worker.reason or "",
    )


def _failure_row(failure: Failure) -> tuple[str, ...]:
    return (
        NEVER if failure.at is None else f"{failure.at.astimezone():%H:%M:%S}",
        failure.outcome,
        failure.done.replace("_", " "),
        failure.model,
        short_id(failure.worker or ""),
        _wait(failure.gap_s),
    )


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _wait(seconds: float | None) -> str:
    return NEVER if seconds is None else milliseconds(seconds)
