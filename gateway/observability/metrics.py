"""Exports Prometheus metrics: counts and times of requests, and the workers at this moment.

Names follow OpenTelemetry's semantic conventions for generative AI where those have one, with dots as underscores and
the unit at the end (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics). Strangers choose the names of
models: only so many become labels. Knows nothing of HTTP, workers or files: it is told, and it asks one callable.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.observability.outcomes import KNOWN, is_failure, is_success
from gateway.observability.reports import CANCELLED, AttemptReport, RequestReport
from gateway.observability.views import ModelView

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus's text format, as `GatewayMetrics.scrape` gives it."""

MAX_MODELS = 100
"""Models with series of their own: that many that were asked for, and as many more that were only announced. Each of
the former has some hundred series; making the page of all of them takes a thread some 0.2 s."""

SCRAPE_AGE_S = 1.0
"""Prometheus asks every 15 s or so. Whoever asks in between is not given a thread each time."""

OTHER_MODEL = "other"
OTHER_ERROR = "_OTHER"
"""As the conventions have it."""

DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN_BUCKETS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKEN_COUNT_BUCKETS = tuple(4.0**power for power in range(14))
"""The four above are the conventions' own."""

GAP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0)
"""With the aims for it: a median under 0.15 s after a kill, under 1.5 s after a silent stop."""

PROVIDER = "p2pnet"
OPERATIONS = {"generate": "generate_content", "embed": "embeddings"}
"""The conventions' words for our tasks, where they have any: a report does not say whether a chat or a text was to be
continued."""

LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class GatewayMetrics:
    """The metrics of one gateway, in a registry of its own. `note` is an Observer. `models`, the number of open
    `streams`, how far this machine's clock is ahead and the counts of `audits` are asked for at each scrape."""

    def __init__(
        self,
        models: Callable[[], Sequence[ModelView]] = tuple,
        now_s: Callable[[], float] = time.monotonic,
        max_models: int = MAX_MODELS,
        streams: Callable[[], int] = int,
        clock_ahead_s: Callable[[], float] = float,
        audits: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._now_s = now_s
        self._count_streams = streams
        self._clock_ahead_s = clock_ahead_s
        self._scraping = asyncio.Lock()
        self._scraped = b""
        self._scraped_s = float("-inf")
        self._registry = CollectorRegistry(auto_describe=False)
        self._used = ModelLabels(max_models)
        self._requests = _RequestMetrics(self._registry)
        self._routes = _RouteMetrics(self._registry)
        self._http = Counter(
            "p2pnet_gateway_http_requests",
            "HTTP requests that were answered, by surface and status.",
            ("surface", "status"),
            registry=self._registry,
        )
        self._workers = _WorkersNow(models, self._used, ModelLabels(max_models))
        self._registry.register(self._workers)
        self._audits = _Audits(audits)
        self._registry.register(self._audits)
        self._streams = Gauge("p2pnet_streams", "Streams to workers, of every protocol.", registry=self._registry)
        self._clock = Gauge(
            "p2pnet_clock_ahead_seconds", "How far this clock is ahead of other peers'.", registry=self._registry
        )
        self._tasks = Gauge("p2pnet_asyncio_tasks", "Tasks of the event loop.", registry=self._registry)
        ProcessCollector(registry=self._registry)

    def note(self, report: RequestReport) -> None:
        """A request is over."""
        model = self._used.of(report.model) if report.attempts else self._used.known(report.model)
        self._requests.note(report, model)
        self._routes.note(report)

    def note_http(self, surface: str, status: int) -> None:
        """An HTTP request is answered. `surface` is one of a few words of ours."""
        self._http.labels(surface, str(status)).inc()

    async def scrape(self) -> bytes:
        """Everything in Prometheus's text format, of CONTENT_TYPE, at most SCRAPE_AGE_S old: however many ask."""
        async with self._scraping:
            if self._now_s() - self._scraped_s >= SCRAPE_AGE_S:
                self._workers.look()
                self._audits.look()
                self._streams.set(self._count_streams())
                self._clock.set(self._clock_ahead_s())
                self._tasks.set(len(asyncio.all_tasks()))
                self._scraped = await asyncio.to_thread(generate_latest, self._registry)
                self._scraped_s = self._now_s()
        return self._scraped


class ModelLabels:
    """Decides which models have series of their own: the first ones, for ever, since a label must not change."""

    def __init__(self, max_models: int) -> None:
        self._max_models = max_models
        self._names: set[str] = set()

    def __contains__(self, model: str) -> bool:
        return model in self._names

    def of(self, model: str) -> str:
        if len(self._names) < self._max_models:
            self._names.add(model)
        return self.known(model)

    def known(self, model: str) -> str:
        """As `of`, without giving the model a series."""
        return model if model in self._names else OTHER_MODEL


class _RequestMetrics:
    """What OpenTelemetry's conventions have a name for, and how long requests waited."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to the end of its answer. error_type is empty for a success.",
            (*LABELS, "error_type"),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer, of successes.",
            LABELS,
            buckets=FIRST_TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "From one token to the next after the first one, averaged over each success.",
            LABELS,
            buckets=TOKEN_BUCKETS_S,
            registry=registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request: of its prompt (input) and of its answer (output).",
            (*LABELS, "gen_ai_token_type"),
            buckets=TOKEN_COUNT_BUCKETS,
            registry=registry,
        )
        self._queued = Histogram(
            "p2pnet_gateway_request_queue_time_seconds",
            "How long requests waited for a worker.",
            ("model",),
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )

    def note(self, report: RequestReport, model: str) -> None:
        labels = (OPERATIONS.get(report.task, report.task), PROVIDER, model)
        self._duration.labels(*labels, _error_type(report.outcome)).observe(report.duration_s)
        self._queued.labels(model).observe(report.queued_s)
        if report.prompt_tokens:
            self._tokens.labels(*labels, "input").observe(report.prompt_tokens)
        if report.completion_tokens:
            self._tokens.labels(*labels, "output").observe(report.completion_tokens)
        if report.task == "generate" and is_success(report.outcome) and report.first_token_s is not None:
            self._first_token.labels(*labels).observe(report.first_token_s)
            if report.completion_tokens > 1:
                later_s = max(0.0, report.duration_s - report.first_token_s)
                self._per_token.labels(*labels).observe(later_s / (report.completion_tokens - 1))


class _RouteMetrics:
    """What became of requests on their way over workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "p2pnet_gateway_attempts",
            "Requests to workers, by how they ended: a finish reason, an error's code, or cancelled.",
            ("outcome",),
            registry=registry,
        )
        self._resumes = Counter(
            "p2pnet_gateway_resumes",
            "Workers that went on with an answer which another one had begun.",
            registry=registry,
        )
        self._hedges = Counter(
            "p2pnet_gateway_hedges",
            "Second workers asked since the first one was late, by whether they answered first.",
            ("won",),
            registry=registry,
        )
        self._gap = Histogram(
            "p2pnet_gateway_resume_gap_seconds",
            "The longest silence in an answer that changed workers.",
            buckets=GAP_BUCKETS_S,
            registry=registry,
        )

    def note(self, report: RequestReport) -> None:
        for attempt in report.attempts:
            self._attempts.labels(attempt.outcome if attempt.outcome in KNOWN else OTHER_ERROR).inc()
            if attempt.is_hedge:
                self._hedges.labels("true" if _has_answered(attempt) else "false").inc()
        if resumes := resumes_of(report.attempts):
            self._resumes.inc(resumes)
        if report.gap_s is not None:
            self._gap.observe(report.gap_s)


class _WorkersNow(Collector):
    """Gauges of this moment."""

    def __init__(self, models: Callable[[], Sequence[ModelView]], used: ModelLabels, announced: ModelLabels) -> None:
        self._models = models
        self._used = used
        self._announced = announced
        self._seen: Sequence[ModelView] = ()

    def look(self) -> None:
        """To be called where workers change; `collect` is called in another thread."""
        self._seen = self._models()

    def collect(self) -> Iterator[Metric]:
        workers: Count[tuple[str, str]] = Count()
        slots: Count[str] = Count()
        in_flight: Count[str] = Count()
        waiting: Count[str] = Count()
        for view in self._seen:
            model = self._label(view)
            for state, count in view.states.items():
                workers[model, state] += count
            slots[model] += view.slots
            in_flight[model] += view.in_flight
            waiting[model] += view.waiting
        by_state = GaugeMetricFamily(
            "p2pnet_gateway_workers", "Workers that announce a model, by state.", labels=("model", "state")
        )
        for labels, count in workers.items():
            by_state.add_metric(labels, count)
        yield by_state
        yield _by_model("p2pnet_gateway_slots", "Slots of workers in use.", slots)
        yield _by_model("p2pnet_gateway_requests_in_flight", "Requests that workers serve for this gateway.", in_flight)
        yield _by_model("p2pnet_gateway_queue_waiting", "Requests that wait for a worker.", waiting)

    def _label(self, view: ModelView) -> str:
        """A model that is only waited for is a word that a client made up, or the network's business some day."""
        if view.id in self._used:
            return view.id
        return self._announced.of(view.id) if view.states else self._announced.known(view.id)


class _Audits(Collector):
    """What looks at answers came to, as those who count them have it."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts
        self._seen: Mapping[str, int] = {}

    def look(self) -> None:
        """As `_WorkersNow.look`."""
        self._seen = dict(self._counts())

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "p2pnet_gateway_audits", "Looks at answers of workers, by what they came to.", labels=("outcome",)
        )
        for outcome, count in sorted(self._seen.items()):
            family.add_metric((outcome,), count)
        yield family


def resumes_of(attempts: Sequence[AttemptReport]) -> int:
    """Attempts that gave a part of an answer which another worker had begun and could not finish."""
    return sum(
        _has_answered(attempt)
        and not attempt.is_hedge
        and any(
            is_failure(earlier.outcome) and earlier.tokens > 0 and earlier.choice in (None, attempt.choice)
            for earlier in attempts[:index]
        )
        for index, attempt in enumerate(attempts)
    )


def _has_answered(attempt: AttemptReport) -> bool:
    return attempt.tokens > 0 or is_success(attempt.outcome)


def _error_type(outcome: str) -> str:
    if is_success(outcome):
        return ""
    return outcome if outcome in KNOWN or outcome == CANCELLED else OTHER_ERROR


def _by_model(name: str, help_text: str, counts: Count[str]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=("model",))
    for model, count in counts.items():
        family.add_metric((model,), count)
    return family
