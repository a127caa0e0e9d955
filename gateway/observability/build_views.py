"""Builds the views of workers and models, from the workers themselves and from the history.

Reads what others own; changes nothing, keeps no clock.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.observability.history import History
from gateway.observability.recent import WorkerStatistics
from gateway.observability.views import (
    FLAGGED,
    LOST,
    UNAUDITED,
    AuditView,
    LoadView,
    ModelView,
    ServedModel,
    WorkerPage,
    WorkerQuery,
    WorkerView,
)
from gateway.peers.health import Health, ModelHealth, State
from gateway.peers.worker import Worker
from p2pnet.messages import Load
from p2pnet.spans import Span

_SEVERITY = (State.HEALTHY, State.TRIAL, State.COOLING)

MEASURED_S = 24 * 3600.0
"""How far back a worker's statistics go, as far as the history does."""


@dataclass(frozen=True)
class Sources:
    """What is read: workers in use, workers that are announced and do not answer, requests waiting by model, what
    audits have shown of a worker, who is flagged, and how many workers the network announces. `now_s` is the clock of
    the workers' own times."""

    workers: Callable[[], Iterable[Worker]]
    lost: Callable[[], Iterable[Worker]] = tuple
    waiting: Callable[[], Mapping[str, int]] = dict
    audit: Callable[[Worker], AuditView] = lambda worker: UNAUDITED
    flagged: Container[str] = frozenset()
    now_s: Callable[[], float] = time.monotonic
    unix_s: Callable[[], float] = time.time
    announced: Callable[[], int] = int


def worker_page(sources: Sources, history: History, query: WorkerQuery) -> WorkerPage:
    """The workers that are asked for, by id."""
    lost = {worker.peer_id: worker for worker in sources.lost()}
    everybody = {worker.peer_id: worker for worker in sources.workers()} | lost
    found = sorted(peer_id for peer_id, worker in everybody.items() if _fits(worker, query))
    now_s, unix_s = sources.now_s(), sources.unix_s()
    views = [
        worker_view(
            everybody[peer_id],
            history.measured(peer_id, unix_s - MEASURED_S),
            now_s,
            unix_s,
            is_lost=peer_id in lost,
            audit=sources.audit(everybody[peer_id]),
        )
        for peer_id in found[: query.limit]
    ]
    return WorkerPage(views, len(found))


def worker_view(
    worker: Worker,
    measured: WorkerStatistics,
    now_s: float,
    unix_s: float,
    is_lost: bool = False,
    audit: AuditView = UNAUDITED,
) -> WorkerView:
    record, health = worker.record, _best_health(worker, now_s)
    state = health.state(now_s)
    cooling_until_s = health.cooling_until_s if state is State.COOLING else None
    return WorkerView(
        id=worker.peer_id,
        agent=record.agent,
        state=LOST if is_lost else FLAGGED if audit.verdict == FLAGGED else state.value,
        reason=health.reason if audit.reason is None else audit.reason,
        cooldown_s=None if cooling_until_s is None else cooling_until_s - now_s,
        models=tuple(
            ServedModel(
                id=card.id,
                task=card.asked_for[0][1],
                digest=card.digest,
                quantization=card.quantization,
                dtype=card.dtype,
                context_length=card.context_length,
                features=card.features,
                is_cold=card.is_cold,
                in_flight=0 if is_lost else worker.in_flight_of(card.asked_for[0]),
                state=worker.health_of(card.asked_for[0]).state(now_s).value,
            )
            for card in record.models
        ),
        slots=worker.slots,
        in_flight=0 if is_lost else worker.in_flight,  # what it had under way is lost with it
        pressure=0 if is_lost else worker.pressure(),
        round_trip_s=worker.round_trip_s.value,
        measured=measured,
        load=None if worker.load is None else _load_view(worker.load, max(0.0, now_s - worker.load_sampled_s)),
        record_age_s=max(0.0, unix_s - record.issued_ms / 1000),
        heard_age_s=max(0.0, now_s - worker.heard_s) if math.isfinite(worker.heard_s) else None,
        audit=audit,
    )


def _best_health(worker: Worker, now_s: float) -> Health | ModelHealth:
    """The worker's own, unless that is well and none of its models is: then that of the least bad one."""
    healths = [worker.health_of(card.asked_for[0]) for card in worker.record.models]
    if worker.health.state(now_s) is not State.HEALTHY or not healths:
        return worker.health
    return min(healths, key=lambda health: _SEVERITY.index(health.state(now_s)))


def model_views(sources: Sources) -> list[ModelView]:
    """All models that are announced, waited for, or would be there if all their layers were, by name."""
    now_s = sources.now_s()
    gathered: dict[str, _Gathered] = {}
    idle = [(worker, LOST) for worker in sources.lost()]
    for worker in sources.workers():
        if worker.peer_id in sources.flagged:
            idle.append((worker, FLAGGED))
        else:
            _gather(gathered, worker, now_s)
            for part in worker.record.incomplete:
                gathered.setdefault(part.id, _Gathered()).drivers_miss.append(part.missing)
    for worker, state in idle:
        for model in {card.id for card in worker.record.models}:
            gathered.setdefault(model, _Gathered()).states[state] += 1
    waiting = sources.waiting()
    for model in waiting:
        gathered.setdefault(model, _Gathered())
    return [gathered[model].view(model, waiting.get(model, 0)) for model in sorted(gathered)]


@dataclass
class _Gathered:
    """Of one model, while the workers are gone through."""

    tasks: set[str] = field(default_factory=set)
    states: Counter[str] = field(default_factory=Counter)
    workers: int = 0
    slots: int = 0
    in_flight: int = 0
    digests: set[str] = field(default_factory=set)
    context_length: int | None = None
    features: set[str] = field(default_factory=set)
    drivers_miss: list[tuple[Span, ...]] = field(default_factory=list)

    @property
    def missing(self) -> tuple[Span, ...]:
        """What is nearest to a whole model, where nobody runs it."""
        if self.workers:
            return ()
        return min(self.drivers_miss, key=lambda gaps: sum(last - first for first, last in gaps), default=())

    def view(self, model: str, waiting: int) -> ModelView:
        return ModelView(
            id=model,
            tasks=tuple(sorted(self.tasks)),
            workers=self.workers,
            states=dict(self.states),
            slots=self.slots,
            in_flight=self.in_flight,
            waiting=waiting,
            digests=tuple(sorted(self.digests)),
            context_length=self.context_length,
            features=tuple(sorted(self.features)),
            missing=self.missing,
        )


def _gather(gathered: dict[str, _Gathered], worker: Worker, now_s: float) -> None:
    """A worker that runs a model for two tasks is one worker, with slots for each."""
    states: dict[str, list[State]] = {}
    for card in worker.record.models:
        states.setdefault(card.id, []).append(worker.health_of(card.asked_for[0]).state(now_s))
    for model, of_tasks in states.items():
        of_model = gathered.setdefault(model, _Gathered())
        of_model.states[min(of_tasks, key=_SEVERITY.index).value] += 1
        of_model.workers += 1
    for card in worker.record.models:
        of_model = gathered[card.id]
        _, task = card.asked_for[0]
        of_model.tasks.add(task)
        of_model.slots += worker.slots
        of_model.in_flight += worker.in_flight_of(card.asked_for[0])
        of_model.digests.add(card.digest)
        of_model.features.update(card.features)
        of_model.context_length = max(of_model.context_length or 0, card.context_length)


def _fits(worker: Worker, query: WorkerQuery) -> bool:
    if query.worker is not None and worker.peer_id != query.worker:
        return False
    return query.model is None or any(card.id == query.model for card in worker.record.models)


def _load_view(load: Load, age_s: float) -> LoadView:
    return LoadView(
        age_s=age_s,
        running=load.running,
        queued=load.queued,
        slots=load.slots,
        kv_free_tokens=load.kv_free_tokens,
        kv_total_tokens=load.kv_total_tokens,
        decode_tokens_per_s=load.decode_tokens_per_s.value,
        prefill_tokens_per_s=load.prefill_tokens_per_s.value,
        first_token_s=load.first_token_s.value,
    )
