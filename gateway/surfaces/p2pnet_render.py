"""The JSON of the gateway's own API. Moments are RFC 3339 in UTC, everything else of time is seconds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.knowing.recent import Kept
from gateway.knowing.views import ChoiceView, ModelView, WorkerPage


def workers(page: WorkerPage) -> bytes:
    return msgspec.json.encode(page)


def models(views: Sequence[ModelView]) -> bytes:
    return msgspec.json.encode({"models": views})


def requests(page: Sequence[Kept], limit: int) -> bytes:
    """`next_before` is what to ask for to go on; null at the end."""
    next_before = page[-1].number if len(page) == limit else None
    return msgspec.json.encode({"requests": [_request(kept) for kept in page], "next_before": next_before})


def choices(views: Sequence[ChoiceView]) -> bytes:
    return msgspec.json.encode({"choices": [_choice(view) for view in views]})


def _request(kept: Kept) -> dict[str, Any]:
    report: dict[str, Any] = msgspec.to_builtins(kept.report)
    return {"number": kept.number, "arrived": _moment(report.pop("arrived_unix_s")), **report}


def _choice(view: ChoiceView) -> dict[str, Any]:
    choice: dict[str, Any] = msgspec.to_builtins(view)
    return {"at": _moment(choice.pop("at_unix_s")), **choice}


def _moment(unix_s: float) -> datetime:
    return datetime.fromtimestamp(unix_s, UTC)
