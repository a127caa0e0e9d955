"""Counts and times the worker's requests for Prometheus.

Names are vLLM's where it has one, with `p2pnet_worker_` for `vllm:` (a colon is for recording rules). Labels are this
worker's own models and words of ours: nothing that a stranger sends. Knows nothing of HTTP, nor of how models run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder

from p2pnet.messages import Finished
from p2pnet.network.interface import Relayed
from p2pnet.worker.observability.observer import Observer, Standing

PREFIX = "p2pnet_worker_"
MODEL = "model_name"

FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
GAP_BUCKETS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(20.0, 40.0, 80.0),
)
DURATION_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""The three above are vLLM's."""


class WorkerMetrics(Observer):
    """The metrics of one worker, in a registry of its own."""

    def __init__(self) -> None:
        self._standing: Callable[[], Standing] = Standing
        self._registry = CollectorRegistry(auto_describe=False)
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of the prompts of finished requests.")
        self._tokens = self._counter("generation_tokens", "Tokens generated, counted as they are sent.")
        self._cache_queries = self._counter("prefix_cache_queries", "Tokens of prompts that may have been known.")
        self._cache_hits = self._counter("prefix_cache_hits", "Tokens of prompts that needed no computing.")
        self._success = self._counter("request_success", "Finished requests, by their reason.", "finished_reason")
        self._failure = Counter(
            PREFIX + "request_failure",
            "Streams that ended otherwise, by protocol and code; peer_lost: the client went away.",
            ("protocol", "code"),
            registry=self._registry,
        )
        self._probes = Counter(PREFIX + "probes", "Status probes answered.", registry=self._registry)
        self._first_token = self._histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_BUCKETS_S
        )
        self._gap = self._histogram("inter_token_latency_seconds", "From one token to the next.", GAP_BUCKETS_S)
        self._duration = self._histogram(
            "e2e_request_latency_seconds", "From a request's arrival to its end, of finished ones.", DURATION_BUCKETS_S
        )
        self._running = self._gauge("num_requests_running", "Requests whose tokens are coming.")
        self._waiting = self._gauge("num_requests_waiting", "Requests that hold a slot and wait.")
        self._slots = self._gauge("slots", "Requests taken at the same time, over all models.")
        self._kv_usage = self._gauge("kv_cache_usage_perc", "Share of the key-value memory in use, 0 to 1.")
        self._is_serving = self._gauge("is_serving", "1 when requests are taken, 0 when paused or stopping.")
        self._gateways = self._gauge("gateways", "Gateways that have asked for a slot lately, or hold one.")
        self._streams = Gauge("p2pnet_streams", "Streams to other peers, of every protocol.", registry=self._registry)
        self._clock = Gauge(
            "p2pnet_clock_ahead_seconds", "How far this clock is ahead of other peers'.", registry=self._registry
        )
        self._tasks = Gauge("p2pnet_asyncio_tasks", "Tasks of the event loop.", registry=self._registry)
        self._relay_places = Gauge(
            "p2pnet_relay_places", "Peers that nobody can dial and that have a place here.", registry=self._registry
        )
        self._relay_circuits = Gauge("p2pnet_relay_circuits", "Circuits through this peer.", registry=self._registry)
        self._relayed_bytes = Counter(
            "p2pnet_relayed_bytes", "Bytes carried for others, in both directions.", registry=self._registry
        )
        self._relayed_before = 0
        ProcessCollector(registry=self._registry)

    def watch(self, standing: Callable[[], Standing]) -> None:
        """Ask this for the worker's standing at each scrape from now on."""
        self._standing = standing

    def first_token(self, model: str, tokens: int, waited_s: float) -> None:
        self._first_token.labels(model).observe(waited_s)
        self._tokens.labels(model).inc(tokens)

    def more_tokens(self, model: str, tokens: int, gap_s: float) -> None:
        self._tokens.labels(model).inc(tokens)
        gap = self._gap.labels(model)
        for _ in range(tokens):  # those that come together waited together: each has its part of the time
            gap.observe(gap_s / tokens)

    def finished(self, model: str, finished: Finished, duration_s: float) -> None:
        usage = finished.usage
        self._prompt_tokens.labels(model).inc(usage.prompt_tokens)
        self._cache_queries.labels(model).inc(usage.prompt_tokens)
        self._cache_hits.labels(model).inc(usage.cached_tokens)
        self._duration.labels(model).observe(duration_s)
        self._success.labels(model, finished.reason).inc()

    def refused(self, protocol: str, code: str) -> None:
        self._failure.labels(protocol, code).inc()

    def probed(self) -> None:
        self._probes.inc()

    def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics, and their content type: OpenMetrics for who accepts that, else Prometheus's text format. Call it
        in the worker's event loop."""
        standing = self._standing()
        load = standing.status.load
        self._running.set(load.running)
        self._waiting.set(load.queued)
        self._slots.set(load.slots)
        total = load.kv_total_tokens
        self._kv_usage.set(1 - load.kv_free_tokens / total if total else 0)
        self._is_serving.set(standing.status.is_serving)
        self._gateways.set(standing.gateways)
        self._streams.set(standing.streams)
        self._clock.set(standing.clock.ahead_s)
        self._tasks.set(len(asyncio.all_tasks()))
        self._note_relayed(standing.relayed)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _note_relayed(self, relayed: Relayed) -> None:
        self._relay_places.set(relayed.places)
        self._relay_circuits.set(relayed.circuits)
        self._relayed_bytes.inc(relayed.bytes - self._relayed_before)
        self._relayed_before = relayed.bytes

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, says, (MODEL, *labels), registry=self._registry)

    def _gauge(self, name: str, says: str) -> Gauge:
        return Gauge(PREFIX + name, says, registry=self._registry)

    def _histogram(self, name: str, says: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(PREFIX + name, says, (MODEL,), buckets=buckets, registry=self._registry)
