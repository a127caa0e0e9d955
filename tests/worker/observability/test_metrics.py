"""What Prometheus reads of a worker: scraped over HTTP, parsed by its own parser, held against what was served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from p2pnet.client import embed, generate, status
from p2pnet.config import GuardConfig, WorkerConfig
from p2pnet.directory import validator
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import Busy, ModelNotFound, UsageError
from p2pnet.messages import Accepted, Finished, GenerateRequest, Measure, TextDelta, TextPrompt, Usage
from p2pnet.network.interface import Relayed
from p2pnet.network.memory import MemoryWorld
from p2pnet.worker.backend import BackendLoad
from p2pnet.worker.observability.metrics import WorkerMetrics
from p2pnet.worker.observability.metrics_server import MetricsServer
from p2pnet.worker.observability.observer import Standing
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, ask, card, peer, settle
from tests.worker.scripted import Embedder, Scripted, Step

WORKER = peer("worker")
GATEWAY = peer("gateway").peer_id
FINISHED = Finished("length", Usage(7, 4, cached_tokens=5))
ANSWER = (Accepted(7), TextDelta("a", (1,)), TextDelta("bcd", (2, 3, 4)), FINISHED)

Samples = dict[tuple[str, ...], float]
"""The value of each sample, by its name and the values of its labels."""


class Site:
    """A worker with one model, its metrics, and a gateway."""

    def __init__(self, *steps: Step) -> None:
        self.clock = ManualClock()
        self.backend = Scripted(*steps, models=(card("tiny"),))
        self.metrics = WorkerMetrics()
        world = MemoryWorld(validator(self.clock))
        self.network = world.join(WORKER.peer_id)
        self.gateway = world.join(GATEWAY)

    @asynccontextmanager
    async def working(self, guard: GuardConfig | None = None) -> AsyncIterator[Worker]:
        config = WorkerConfig(max_concurrency=2, drain_s=5, guard=guard or GuardConfig())
        embedders = (Embedder(Scripted(models=(card("vectors", task="embed"),))),)
        worker = await Worker.start(
            self.network,
            WORKER,
            [self.backend],
            self.clock,
            config,
            embedders=embedders,
            observer=self.metrics,
        )
        self.metrics.watch(worker.standing)
        yield worker
        await worker.stop()

    async def ask(self, request: GenerateRequest | None = None) -> None:
        async with aclosing(generate(self.gateway, WORKER.peer_id, request or ask("tiny"))) as events:
            async for _ in events:
                pass

    def samples(self) -> Samples:
        return samples(self.metrics.scrape()[0])


def samples(page: bytes) -> Samples:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(page.decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_what_was_served_is_counted() -> None:
    site = Site(*ANSWER)
    async with site.working():
        for _ in range(3):
            await site.ask()
        found = site.samples()
    for name, value in {
        "prompt_tokens_total": 21.0,
        "generation_tokens_total": 12.0,
        "prefix_cache_queries_total": 21.0,
        "prefix_cache_hits_total": 15.0,
        "time_to_first_token_seconds_count": 3.0,
        "e2e_request_latency_seconds_count": 3.0,
    }.items():
        assert found["p2pnet_worker_" + name, "tiny"] == value, name
    assert found["p2pnet_worker_request_success_total", "length", "tiny"] == 3.0


async def test_how_busy_it_is() -> None:
    gate = asyncio.Event()
    site = Site(Accepted(7), TextDelta("a", (1,)), gate, *ANSWER[2:])
    site.backend.load = BackendLoad(25, 100, Measure(), Measure())
    async with site.working():
        running = asyncio.create_task(site.ask())
        await settle(lambda: site.samples()["p2pnet_worker_num_requests_running",] == 1.0)
        found = site.samples()
        assert found["p2pnet_worker_num_requests_waiting",] == 0.0
        assert found["p2pnet_worker_slots",] == 4.0
        assert found["p2pnet_worker_is_serving",] == 1.0
        assert found["p2pnet_worker_gateways",] == 1.0
        assert found["p2pnet_worker_kv_cache_usage_perc",] == 0.75
        assert found["p2pnet_worker_generation_tokens_total", "tiny"] == 1.0, "counted as they come"
        assert found["p2pnet_streams",] == 1.0
        gate.set()
        await running
        assert site.samples()["p2pnet_worker_num_requests_running",] == 0.0
        await settle(lambda: site.samples()["p2pnet_streams",] == 0.0)
        assert site.samples()["p2pnet_asyncio_tasks",] < found["p2pnet_asyncio_tasks",]
    assert site.samples()["p2pnet_worker_is_serving",] == 0.0


async def test_what_is_relayed_for_others() -> None:
    site = Site()
    for bytes_so_far in (1000, 1500):
        relayed = Relayed(places=2, circuits=1, circuits_made=5, bytes=bytes_so_far)
        site.metrics.watch(partial(Standing, relayed=relayed))
        found = site.samples()
        assert found["p2pnet_relayed_bytes_total",] == bytes_so_far
        assert (found["p2pnet_relay_places",], found["p2pnet_relay_circuits",]) == (2.0, 1.0)


async def test_what_ended_otherwise_is_counted_by_its_code_and_no_stranger_makes_a_label() -> None:
    gate = asyncio.Event()
    site = Site(Accepted(7), gate, *ANSWER[1:])
    async with site.working():
        with pytest.raises(ModelNotFound):
            await site.ask(ask("invented"))
        held = [asyncio.create_task(site.ask()) for _ in range(2)]
        await settle(lambda: site.backend.running == 2)
        with pytest.raises(Busy):
            await site.ask()
        held[0].cancel()
        await settle(lambda: site.backend.running == 1)
        gate.set()
        await held[1]
        await status(site.gateway, WORKER.peer_id, (), 10)
        page, _ = site.metrics.scrape()
    found = samples(page)
    failures = {key[1:]: value for key, value in found.items() if key[0] == "p2pnet_worker_request_failure_total"}
    assert failures == {(code, "/p2pnet/generate/1"): 1.0 for code in ("model_not_found", "busy", "peer_lost")}
    assert found["p2pnet_worker_probes_total",] == 1.0
    assert b"invented" not in page
    assert GATEWAY.encode() not in page


async def test_vectors_are_counted_too() -> None:
    class Vectors(Embedder):
        async def embed(self, request: EmbedRequest):  # type: ignore[no-untyped-def, override]
            yield Accepted(5)
            yield Embedding(0, bytes(8))
            yield Finished("stop", Usage(5, 0))

    site = Site()
    vectors = Vectors(Scripted(models=(card("vectors", task="embed"),)))
    worker = await Worker.start(
        site.network, WORKER, [], site.clock, WorkerConfig(drain_s=0), embedders=[vectors], observer=site.metrics
    )
    request = EmbedRequest("r1", "vectors", (TextPrompt("a"),))
    assert len([event async for event in embed(site.gateway, WORKER.peer_id, request)]) == 3
    assert site.samples()["p2pnet_worker_prompt_tokens_total", "vectors"] == 5.0
    assert site.samples()["p2pnet_worker_request_success_total", "stop", "vectors"] == 1.0
    await worker.stop()


async def test_tokens_that_come_together_share_their_gap() -> None:
    metrics = WorkerMetrics()
    metrics.first_token("tiny", 2, 0.25)
    metrics.more_tokens("tiny", 4, 0.08)
    found = samples(metrics.scrape()[0])
    assert found["p2pnet_worker_inter_token_latency_seconds_count", "tiny"] == 4.0
    assert found["p2pnet_worker_inter_token_latency_seconds_sum", "tiny"] == pytest.approx(0.08)
    assert found["p2pnet_worker_inter_token_latency_seconds_bucket", "0.025", "tiny"] == 4.0
    assert found["p2pnet_worker_generation_tokens_total", "tiny"] == 6.0
    assert found["p2pnet_worker_time_to_first_token_seconds_sum", "tiny"] == 0.25


# ---- over HTTP


async def test_the_page_is_served_and_stops_with_its_worker() -> None:
    threads = threading.active_count()
    metrics = WorkerMetrics()
    metrics.first_token("tiny", 2, 0.25)
    server = await MetricsServer.start(metrics.scrape, "127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        async with client.get(server.url) as response:
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            found = samples(await response.read())
            assert found["p2pnet_worker_generation_tokens_total", "tiny"] == 2.0
            assert found["p2pnet_worker_is_serving",] == 0.0, "nothing has begun"
            assert "process_cpu_seconds_total" in {name for name, *_ in found}
        accepts = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with client.get(server.url, headers=accepts) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert list(parse_open(await response.text()))
        async with client.get(server.url.removesuffix("metrics")) as response:
            assert response.status == 404
        await server.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.get(server.url)
    assert threading.active_count() == threads


async def test_a_port_that_is_taken() -> None:
    first = await MetricsServer.start(WorkerMetrics().scrape, "127.0.0.1", 0)
    port = int(first.url.split(":")[2].split("/")[0])
    with pytest.raises(UsageError, match=f"port {port}"):
        await MetricsServer.start(WorkerMetrics().scrape, "127.0.0.1", port)
    await first.stop()


async def test_a_host_that_is_none() -> None:
    with pytest.raises(UsageError, match="cannot be served"):
        await MetricsServer.start(WorkerMetrics().scrape, "203.0.113.7", 0)
