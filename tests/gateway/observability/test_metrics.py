"""What Prometheus reads of a gateway, as its own parser understands it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from gateway.observability.http_counts import HttpCounts
from gateway.observability.metrics import SCRAPE_AGE_S, GatewayMetrics, ModelLabels, resumes_of
from gateway.observability.outcomes import KNOWN
from gateway.observability.reports import CANCELLED, AttemptReport
from gateway.observability.views import ModelView
from tests.gateway.reports import attempt, report

Labels = frozenset[tuple[str, str]]


async def scraped(metrics: GatewayMetrics) -> dict[tuple[str, Labels], float]:
    """Every sample by name and labels, without when it was created."""
    families = text_string_to_metric_families((await metrics.scrape()).decode())
    samples = [sample for family in families for sample in family.samples]
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for sample in samples
        if not sample.name.endswith("_created")
    }


async def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    """Of the sample with these labels, among others that it may have."""
    found = [
        number
        for (sample, has), number in (await scraped(metrics)).items()
        if sample == name and labels.items() <= dict(has).items()
    ]
    assert len(found) <= 1, found
    return found[0] if found else None


def counting(models: Callable[[], Sequence[ModelView]] = tuple, max_models: int = 100) -> GatewayMetrics:
    """Metrics for which every scrape comes long after the last one."""
    return GatewayMetrics(models, itertools.count(step=1000).__next__, max_models)


def model(name: str = "tiny", **changes: object) -> ModelView:
    fields: dict[str, object] = {
        "id": name,
        "tasks": ("generate",),
        "workers": 3,
        "states": {"healthy": 2, "cooling": 1, "lost": 1},
        "slots": 12,
        "in_flight": 5,
        "waiting": 0,
        "digests": (),
        "context_length": 512,
    }
    return ModelView(**{**fields, **changes})  # type: ignore[arg-type]


async def test_a_success_has_its_times_and_tokens() -> None:
    metrics = counting()
    metrics.note(report(attempt(), duration_s=2.5, first_token_s=0.5, queued_s=0.05))
    labels = {
        "gen_ai_operation_name": "generate_content",
        "gen_ai_provider_name": "p2pnet",
        "gen_ai_request_model": "tiny",
    }
    duration = "gen_ai_server_request_duration_seconds"
    assert await value(metrics, f"{duration}_sum", **labels, error_type="") == 2.5
    assert await value(metrics, f"{duration}_bucket", **labels, error_type="", le="1.28") == 0
    assert await value(metrics, f"{duration}_bucket", **labels, error_type="", le="2.56") == 1
    assert await value(metrics, "gen_ai_server_time_to_first_token_seconds_sum", **labels) == 0.5
    assert await value(metrics, "gen_ai_server_time_per_output_token_seconds_sum", **labels) == 0.2
    assert await value(metrics, "gen_ai_client_token_usage_sum", **labels, gen_ai_token_type="input") == 7
    assert await value(metrics, "gen_ai_client_token_usage_sum", **labels, gen_ai_token_type="output") == 11
    assert await value(metrics, "p2pnet_gateway_request_queue_time_seconds_sum", model="tiny") == 0.05
    assert await value(metrics, "p2pnet_gateway_attempts_total", outcome="stop") == 1
    assert await value(metrics, "p2pnet_gateway_resumes_total") == 0
    assert await value(metrics, "p2pnet_gateway_resume_gap_seconds_count") == 0


@pytest.mark.parametrize(
    ("outcome", "error_type"),
    [
        ("length", ""),
        ("peer_lost", "peer_lost"),
        (CANCELLED, CANCELLED),
        ("internal", "internal"),
        ("surprise", "_OTHER"),
    ],
)
async def test_an_error_has_its_type_and_no_times_to_compare(outcome: str, error_type: str) -> None:
    metrics = counting()
    metrics.note(report(attempt(outcome=outcome)))
    assert await value(metrics, "gen_ai_server_request_duration_seconds_count", error_type=error_type) == 1
    assert await value(metrics, "p2pnet_gateway_attempts_total", outcome=error_type or outcome) == 1
    first_tokens = await value(metrics, "gen_ai_server_time_to_first_token_seconds_count")
    assert first_tokens == (None if error_type else 1)


async def test_embeddings_are_an_operation_of_their_own_without_tokens_in_time() -> None:
    metrics = counting()
    metrics.note(report(attempt(), task="embed"))
    assert await value(metrics, "gen_ai_server_request_duration_seconds_count", gen_ai_operation_name="embeddings") == 1
    assert await value(metrics, "gen_ai_server_time_to_first_token_seconds_count") is None


RESUMES: list[tuple[str, list[AttemptReport], int]] = [
    ("undisturbed", [attempt()], 0),
    ("failed before its first token", [attempt(outcome="peer_lost", tokens=0), attempt()], 0),
    ("went on", [attempt(outcome="peer_lost", tokens=3), attempt()], 1),
    (
        "went on over a busy one",
        [attempt(outcome="peer_lost", tokens=3), attempt(outcome="busy", tokens=0), attempt()],
        1,
    ),
    ("went on twice", [attempt(outcome="peer_lost"), attempt(outcome="worker_failed"), attempt()], 2),
    ("nobody could", [attempt(outcome="peer_lost"), attempt(outcome="peer_lost", tokens=0)], 0),
    ("client went away", [attempt(outcome=CANCELLED), attempt()], 0),
    ("two answers went on apart", [attempt(outcome="peer_lost"), attempt(choice=0), attempt(choice=1)], 2),
    ("one of two failed", [attempt(choice=0, outcome="peer_lost"), attempt(choice=1), attempt(choice=0)], 1),
    ("hedged", [attempt(outcome=CANCELLED, tokens=0), attempt(is_hedge=True)], 0),
]


@pytest.mark.parametrize(("attempts", "count"), [row[1:] for row in RESUMES], ids=[row[0] for row in RESUMES])
async def test_what_is_a_resume(attempts: list[AttemptReport], count: int) -> None:
    assert resumes_of(attempts) == count
    metrics = counting()
    metrics.note(report(*attempts, gap_s=0.2))
    assert await value(metrics, "p2pnet_gateway_resumes_total") == count
    assert await value(metrics, "p2pnet_gateway_resume_gap_seconds_sum") == 0.2


async def test_hedges_are_counted_by_who_won() -> None:
    metrics = counting()
    metrics.note(report(attempt(outcome=CANCELLED, tokens=0), attempt(is_hedge=True)))
    metrics.note(report(attempt(is_hedge=True, outcome=CANCELLED, tokens=0), attempt()))
    metrics.note(report(attempt(is_hedge=True, outcome="peer_lost", tokens=0), attempt()))
    assert await value(metrics, "p2pnet_gateway_hedges_total", won="true") == 1
    assert await value(metrics, "p2pnet_gateway_hedges_total", won="false") == 2


async def test_workers_are_shown_as_they_are_at_the_scrape() -> None:
    views = [model()]
    metrics = counting(lambda: views)
    assert await value(metrics, "p2pnet_gateway_workers", model="tiny", state="healthy") == 2
    assert await value(metrics, "p2pnet_gateway_workers", model="tiny", state="lost") == 1
    assert await value(metrics, "p2pnet_gateway_slots", model="tiny") == 12
    assert await value(metrics, "p2pnet_gateway_requests_in_flight", model="tiny") == 5
    views[:] = [model(states={"healthy": 1}, waiting=9)]
    assert await value(metrics, "p2pnet_gateway_workers", model="tiny", state="healthy") == 1
    assert await value(metrics, "p2pnet_gateway_workers", model="tiny", state="lost") is None
    assert await value(metrics, "p2pnet_gateway_queue_waiting", model="tiny") == 9


async def names_of_models(metrics: GatewayMetrics) -> set[str]:
    labels = [dict(has) for _, has in await scraped(metrics)]
    return {name for has in labels for label in ("model", "gen_ai_request_model") if (name := has.get(label))}


@pytest.mark.parametrize("states", [{"healthy": 1}, {}], ids=["announced", "waited for"])
async def test_strangers_cannot_make_series(states: dict[str, int]) -> None:
    views = [model(f"junk-{index}", states=states, waiting=1) for index in range(500)]
    metrics = counting(lambda: views, max_models=10)
    await metrics.scrape()
    for index in range(500):
        metrics.note(report(model=f"asked-{index}"))
    metrics.note(report(attempt(), model="real"))
    for index in range(500):
        metrics.note(report(attempt(outcome=f"odd-{index}"), model=f"served-{index}", outcome=f"odd-{index}"))
    names = await names_of_models(metrics)
    junk = {f"junk-{index}" for index in range(10)} if states else set()
    assert names == {"other", "real", *(f"served-{index}" for index in range(9)), *junk}
    samples = await scraped(metrics)
    assert {outcome for _, has in samples if (outcome := dict(has).get("outcome"))} == {"stop", "_OTHER"}
    assert sum(count for (name, _), count in samples.items() if name == "p2pnet_gateway_queue_waiting") == 500


def test_a_name_keeps_its_series() -> None:
    labels = ModelLabels(2)
    assert [labels.of(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", "other", "a", "other"]
    assert [labels.known(name) for name in ("a", "z")] == ["a", "other"]


async def test_two_gateways_in_one_process_count_apart() -> None:
    one, two = counting(), counting()
    one.note(report(attempt()))
    assert await value(one, "p2pnet_gateway_attempts_total", outcome="stop") == 1
    assert await value(two, "p2pnet_gateway_attempts_total", outcome="stop") is None


async def test_the_process_is_shown() -> None:
    assert await value(counting(), "process_open_fds")


async def test_the_clock_is_shown() -> None:
    assert await value(GatewayMetrics(clock_ahead_s=lambda: -42.0), "p2pnet_clock_ahead_seconds") == -42


async def test_streams_and_tasks_are_those_at_the_scrape() -> None:
    streams = [3]
    metrics = GatewayMetrics(now_s=itertools.count(step=1000).__next__, streams=lambda: streams[0])
    assert await value(metrics, "p2pnet_streams") == 3
    streams[0] = 0
    assert await value(metrics, "p2pnet_streams") == 0
    before = await value(metrics, "p2pnet_asyncio_tasks")
    waiting = asyncio.create_task(asyncio.Event().wait())
    assert before is not None
    assert await value(metrics, "p2pnet_asyncio_tasks") == before + 1
    waiting.cancel()


def test_every_outcome_of_ours_is_a_label() -> None:
    assert {"stop", "length", "tool_calls", CANCELLED, "busy", "peer_lost", "no_worker", "internal"} <= KNOWN


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/v1/chat/completions", "openai"),
        ("/p2pnet/v1/workers", "p2pnet"),
        ("/metrics", "metrics"),
        ("/readyz", "health"),
        ("/health", "health"),
        ("/", "other"),
        ("/v1", "other"),
        ("/favicon.ico", "other"),
    ],
)
async def test_answers_are_counted_by_surface_and_status(path: str, surface: str) -> None:
    metrics = counting()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Message:
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await HttpCounts(app, metrics.note_http)({"type": "http", "path": path}, receive, send)
    assert len(sent) == 2
    assert await value(metrics, "p2pnet_gateway_http_requests_total", surface=surface, status="418") == 1


async def test_who_asks_again_at_once_gets_the_same_page() -> None:
    now_s, looks = [100.0], []

    def models() -> list[ModelView]:
        looks.append(threading.current_thread())
        return [model(in_flight=len(looks))]

    metrics = GatewayMetrics(models, lambda: now_s[0])
    pages = await asyncio.gather(*(metrics.scrape() for _ in range(20)))
    assert len(set(pages)) == 1
    now_s[0] += SCRAPE_AGE_S
    assert await value(metrics, "p2pnet_gateway_requests_in_flight", model="tiny") == 2
    assert looks == [threading.current_thread()] * 2
