"""Shows the gateway at a glance: itself, models, workers, the mesh, the last hour, failures.

It is for the page and for `p2pnet top`, and is made at most once a second, however many look. Knows nothing of HTTP,
and holds no text of anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from gateway.observability.build_views import Sources, model_views, worker_page
from gateway.observability.failures import failures_of
from gateway.observability.history import History
from gateway.observability.mesh import IsDirect, mesh_of, relays_of, way_to
from gateway.observability.recent import MAX_REQUESTS, RequestQuery, WorkerStatistics
from gateway.observability.reports import RequestReport
from gateway.observability.timeline import STEP_S, Series, Span, Timeline
from gateway.observability.views import (
    GatewayView,
    Location,
    ModelSeen,
    ModelView,
    Overview,
    VolunteerSeen,
    WorkerQuery,
    WorkerSeen,
    WorkerView,
)
from gateway.peers.worker import Worker
from p2pnet.config import AGENT

MAX_WORKERS = 200
"""Shown at a glance: more fit on no page. `/p2pnet/v1/workers` lists them all."""

MAX_FAILURES = 50

MAX_VOLUNTEERS = 50
"""Named at a glance. A name costs nothing, and is a stranger's word; what stands beside it was measured here."""

LOOKED_AT = 2_000
"""Of the last requests, those among which failures are looked for: some 2 ms."""

LOOK_S = 1.0
"""How old what is shown may be."""


class OverviewBuilder:
    """Makes overviews. `running` gives the tokens that answers under way have brought so far, `under_way` what has
    happened so far to the requests that are not over."""

    def __init__(
        self,
        sources: Sources,
        history: History,
        location: Location,
        is_ready: Callable[[], bool],
        running: Callable[[], Iterable[Span]] = tuple,
        clock_ahead_s: Callable[[], float] = float,
        is_direct: IsDirect = lambda _: None,
        under_way: Callable[[], Iterable[RequestReport]] = tuple,
    ) -> None:
        self._sources = sources
        self._history = history
        self._location = location
        self._is_ready = is_ready
        self._running = running
        self._clock_ahead_s = clock_ahead_s
        self._is_direct = is_direct
        self._under_way = under_way
        self._timeline = Timeline()
        self._started_unix_s = sources.unix_s()
        self._made: Overview | None = None
        self._made_s = float("-inf")
        for kept in reversed(history.recent(RequestQuery(MAX_REQUESTS))):
            self._timeline.note(kept.report)

    def note(self, report: RequestReport) -> None:
        """A request is over."""
        self._timeline.note(report)

    def look(self) -> Overview:
        now_s = self._sources.now_s()
        if self._made is None or now_s - self._made_s >= LOOK_S:
            self._made = self._make()
            self._made_s = now_s
        return self._made

    def _make(self) -> Overview:
        page = worker_page(self._sources, self._history, WorkerQuery(MAX_WORKERS))
        known = {worker.peer_id: worker for worker in (*self._sources.workers(), *self._sources.lost())}
        models = model_views(self._sources)
        unix_s = self._sources.unix_s()
        return Overview(
            gateway=self._gateway(models, unix_s),
            models=[ModelSeen(view, _speed(view.id, page.workers)) for view in models],
            workers=[self._seen(view, known[view.id]) for view in page.workers],
            total=page.total,
            mesh=mesh_of(
                self._location.peer_id,
                self._location.initial_peers,
                [known[view.id].record for view in page.workers],
                self._is_direct,
            ),
            series=self._series(unix_s),
            volunteers=self._volunteers(known.values()),
            failures=failures_of(
                (kept.report for kept in self._history.recent(RequestQuery(LOOKED_AT))),
                MAX_FAILURES,
                self._under_way(),
            ),
        )

    def _gateway(self, models: Sequence[ModelView], unix_s: float) -> GatewayView:
        rates = self._timeline.rates(unix_s, self._running())
        return GatewayView(
            id=self._location.peer_id,
            agent=AGENT,
            started_unix_s=self._started_unix_s,
            in_flight=sum(worker.in_flight for worker in self._sources.workers()),
            waiting=sum(view.waiting for view in models),
            requests_per_s=round(rates.requests_per_s, 1),
            tokens_per_s=round(rates.tokens_per_s, 1),
            is_ready=self._is_ready(),
            clock_ahead_s=round(self._clock_ahead_s(), 1),
            workers_announced=self._sources.announced(),
        )

    def _seen(self, view: WorkerView, worker: Worker) -> WorkerSeen:
        record = worker.record
        way = way_to(record, self._is_direct)
        incomplete = tuple(model.id for model in record.incomplete)
        return WorkerSeen(view, record.name, way, relays_of(record), worker.since_unix_s, incomplete)

    def _volunteers(self, workers: Iterable[Worker]) -> list[VolunteerSeen]:
        """Those who want to be named and have given something, most first."""
        given = [(worker, self._history.given(worker.peer_id)) for worker in workers if worker.record.name]
        seen = [
            VolunteerSeen(worker.peer_id, worker.record.name, one.answers, one.tokens)
            for worker, one in given
            if one.answers or one.tokens
        ]
        return sorted(seen, key=lambda one: (-one.tokens, -one.answers, one.id))[:MAX_VOLUNTEERS]

    def _series(self, unix_s: float) -> Series:
        """Anew for each whole step only: until then nothing is added."""
        if self._made is not None and unix_s < self._made.series.end_unix_s + STEP_S:
            return self._made.series
        return self._timeline.series(unix_s, self._running())


def _speed(model: str, workers: Iterable[WorkerView]) -> float | None:
    """The mean over its workers, each as often as it was asked. A worker of several models counts for each of them."""
    measured = [
        worker.measured
        for worker in workers
        if worker.measured.tokens_per_s is not None and any(served.id == model for served in worker.models)
    ]
    return _weighted(measured)


def _weighted(measured: Sequence[WorkerStatistics]) -> float | None:
    requests = sum(one.requests for one in measured)
    if not requests:
        return None
    return sum(one.requests * (one.tokens_per_s or 0.0) for one in measured) / requests
