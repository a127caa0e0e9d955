"""Describes workers, models, requests and choices as data: what the surfaces may show. Knows nothing of HTTP, and holds
no text of anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.observability.failures import FailureSeen
from gateway.observability.mesh import Mesh, Way
from gateway.observability.recent import Kept, RequestQuery, WorkerStatistics
from gateway.observability.timeline import Series
from gateway.observability.watchers import Watchers
from gateway.peers.health import State
from p2pnet.spans import Span

LOST = "lost"
"""The state of a worker that is announced and does not answer. The others are those of `gateway.peers.health.State`."""

FLAGGED = "flagged"
"""The state of a worker that this gateway asks nothing, since its answers do not come from what it claims to run."""


@dataclass(frozen=True)
class ServedModel:
    """A model on one worker, as the worker announces it. `in_flight` are this gateway's requests for it there, `state`
    is that of the model there: one may be in trouble while the others are well."""

    id: str
    task: str
    digest: str
    quantization: str
    dtype: str
    context_length: int
    features: tuple[str, ...]
    is_cold: bool
    in_flight: int
    state: str = State.HEALTHY.value


@dataclass(frozen=True)
class LoadView:
    """How busy a worker says it is, over all its models and gateways, `age_s` ago. Speeds of 0 are not measured yet."""

    age_s: float
    running: int
    queued: int
    slots: int
    kv_free_tokens: int
    kv_total_tokens: int
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    first_token_s: float


@dataclass(frozen=True)
class AuditView:
    """What audits have shown of a worker. `verdict` is `unaudited`, `passed`, `suspected`, `flagged`, or
    `unverifiable` where nobody can say anything. `tokens` were looked at, by `auditors`; `log_e` is the evidence
    against it in nats, of the auditor that says most. `reason` and `until` are its flag's. Of an unverifiable one,
    `compared` says how often it was asked the same as another, and `alike` how often both began alike."""

    verdict: str
    tokens: int = 0
    auditors: int = 0
    log_e: float | None = None
    reason: str | None = None
    until: datetime | None = None
    compared: int = 0
    alike: int = 0


UNAUDITED = AuditView("unaudited")


@dataclass(frozen=True)
class WorkerView:
    """One worker. `slots` are of each of its models, `pressure` is how many requests of all gateways are there as far
    as one can know. `reason` and `cooldown_s` say why it is left alone, and for how much longer. `measured` is of the
    last day; what this gateway has not measured, or not heard, is None."""

    id: str
    agent: str
    state: str
    reason: str | None
    cooldown_s: float | None
    models: tuple[ServedModel, ...]
    slots: int
    in_flight: int
    pressure: int
    round_trip_s: float | None
    measured: WorkerStatistics
    load: LoadView | None
    record_age_s: float
    heard_age_s: float | None
    audit: AuditView = UNAUDITED


@dataclass(frozen=True)
class ModelView:
    """One model over all its workers. `workers`, `slots` and `in_flight` are of workers in use, `states` counts the
    lost ones too. `waiting` are requests in this gateway's queue: a model that nobody runs may have some. `missing` are
    the layers that nobody has, where a driver would speak for the model and nobody runs it."""

    id: str
    tasks: tuple[str, ...]
    workers: int
    states: Mapping[str, int]
    slots: int
    in_flight: int
    waiting: int
    digests: tuple[str, ...]
    context_length: int | None
    features: tuple[str, ...] = ()
    missing: tuple[Span, ...] = ()


@dataclass(frozen=True)
class ConsideredView:
    """A worker that a choice looked at, with what was known of it."""

    worker: str
    expected_s: float | None
    in_flight: int
    pressure: int
    slots: int
    state: str
    first_token_s: float | None
    token_s: float | None
    round_trip_s: float | None


@dataclass(frozen=True)
class ChoiceView:
    """One choice of routing: what was asked for, who was taken and why, and who was looked at."""

    at_unix_s: float
    model: str
    task: str
    digest: str | None
    features: tuple[str, ...]
    tokens: int
    worker: str
    why: str
    considered: tuple[ConsideredView, ...]


@dataclass(frozen=True)
class WorkerQuery:
    """Which workers to show: at most `limit`, only those that announce `model`, only `worker`. None is any."""

    limit: int
    model: str | None = None
    worker: str | None = None


@dataclass(frozen=True)
class WorkerPage:
    """Workers by id, and how many fit the query in all."""

    workers: Sequence[WorkerView]
    total: int


@dataclass(frozen=True)
class GatewayView:
    """This gateway, and what it does now. `clock_ahead_s` is how far this machine's clock is ahead of other peers',
    `workers_announced` how many workers the network has: those that are shown may be a part of them."""

    id: str
    agent: str
    started_unix_s: float
    in_flight: int
    waiting: int
    requests_per_s: float
    tokens_per_s: float
    is_ready: bool
    clock_ahead_s: float
    workers_announced: int


@dataclass(frozen=True)
class ModelSeen:
    """A model, and how fast one answer of it is, as measured here over all its workers."""

    view: ModelView
    tokens_per_s: float | None


@dataclass(frozen=True)
class WorkerSeen:
    """A worker, what its owner calls it, how it is reached, and since when it has been in use without a break. Those
    models that are `incomplete` it would speak for, were all of their layers somewhere."""

    view: WorkerView
    name: str
    reached: Way
    relays: tuple[str, ...]
    since_unix_s: float | None
    incomplete: tuple[str, ...] = ()


@dataclass(frozen=True)
class VolunteerSeen:
    """A worker whose owner wants to be named, and what it gave to this gateway, of the requests that are kept."""

    id: str
    name: str
    answers: int
    tokens: int


@dataclass(frozen=True)
class Overview:
    """The whole gateway at one moment. `total` counts the workers that are not shown, too."""

    gateway: GatewayView
    models: Sequence[ModelSeen]
    workers: Sequence[WorkerSeen]
    total: int
    mesh: Mesh
    series: Series
    failures: Sequence[FailureSeen]
    volunteers: Sequence[VolunteerSeen]


@dataclass(frozen=True)
class Location:
    """Where this gateway stands in the network: who it is, and the addresses that it joined through. `swarm` is the
    name of the private swarm that it is in; None is the public network."""

    peer_id: str
    initial_peers: tuple[str, ...] = ()
    swarm: str | None = None


@dataclass(frozen=True)
class Observability:
    """What a surface may ask for, to show it. Requests and choices come newest first; `overview` may be a second
    old; `watchers` lets in who watches; `scrape` gives text for Prometheus."""

    workers: Callable[[WorkerQuery], WorkerPage]
    models: Callable[[], Sequence[ModelView]]
    requests: Callable[[RequestQuery], Sequence[Kept]]
    choices: Callable[[], Sequence[ChoiceView]]
    overview: Callable[[], Overview]
    location: Location
    watchers: Watchers
    scrape: Callable[[], Awaitable[bytes]]
