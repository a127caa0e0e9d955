"""Reads what a gateway tells of the network, as far as `p2pnet top` shows it.

Fields that are missing have defaults, and those that we do not know are left out: gateways of other versions are read
too. Knows nothing of HTTP.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from p2pnet.errors import P2PNetError

Time = Annotated[datetime, msgspec.Meta(tz=True)]


class GatewaySection(msgspec.Struct, frozen=True):
    id: str = ""
    agent: str = ""
    started: Time | None = None
    in_flight: int = 0
    waiting: int = 0
    requests_per_s: float = 0.0
    tokens_per_s: float = 0.0
    is_ready: bool = False
    clock_ahead_s: float = 0.0


class Model(msgspec.Struct, frozen=True):
    id: str = ""
    tasks: tuple[str, ...] = ()
    workers: int = 0
    states: dict[str, int] = {}
    slots: int = 0
    in_flight: int = 0
    waiting: int = 0
    context_length: int | None = None
    tokens_per_s: float | None = None


class WorkerModel(msgspec.Struct, frozen=True):
    id: str = ""
    task: str = ""


class Measured(msgspec.Struct, frozen=True):
    requests: int = 0
    success_rate: float | None = None
    first_token_mean_s: float | None = None
    tokens_per_s: float | None = None


class Worker(msgspec.Struct, frozen=True):
    id: str = ""
    name: str = ""
    state: str = ""
    reason: str | None = None
    models: tuple[WorkerModel, ...] = ()
    slots: int = 0
    in_flight: int = 0
    measured: Measured = Measured()
    reached: str = ""
    since: Time | None = None


class WorkersSection(msgspec.Struct, frozen=True):
    """`workers` are the first of them, `total` is how many there are."""

    workers: tuple[Worker, ...] = ()
    total: int = 0


class Point(msgspec.Struct, frozen=True):
    """What happened in one step of the series."""

    requests: int = 0
    failures: int = 0
    tokens: float = 0.0
    first_token_p50_s: float | None = None


class Series(msgspec.Struct, frozen=True):
    """`points` are as far apart as `step_s` says, the oldest first."""

    step_s: float = 10.0
    points: tuple[Point, ...] = ()


class Failure(msgspec.Struct, frozen=True):
    at: Time | None = None
    model: str = ""
    worker: str | None = None
    outcome: str = ""
    done: str = ""
    by: str | None = None
    gap_s: float | None = None


class FailuresSection(msgspec.Struct, frozen=True):
    failures: tuple[Failure, ...] = ()


class Overview(msgspec.Struct, frozen=True):
    """The network as one gateway sees it at one moment."""

    gateway: GatewaySection = GatewaySection()
    models: tuple[Model, ...] = ()
    workers: WorkersSection = WorkersSection()
    series: Series = Series()
    failures: FailuresSection = FailuresSection()


class NotAnOverview(P2PNetError):
    """What came is something else."""


_decode = msgspec.json.Decoder(Overview, strict=False).decode


def read_overview(body: bytes) -> Overview:
    """Raises NotAnOverview."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotAnOverview(str(error)) from error
