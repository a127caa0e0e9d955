"""The gateway's own API over HTTP: what it shows of workers, models, requests and choices, and what it keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.observability.history import History
from gateway.peers.health import State
from gateway.routing.choose import WorkerChoice
from gateway.routing.route_query import RouteQuery
from gateway.routing.scoring import Considered
from p2pnet.messages import Load, Measure
from tests.gateway.desk import ANN, BOB, NOW_S, Desk, worker
from tests.gateway.reports import NOON_S, attempt, report
from tests.stories import DIGEST, card, peer

KEY = ("tiny", "generate")


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(await History.open(None))
    yield made
    await made.http.aclose()


async def test_a_new_worker_shows_what_it_announces(desk: Desk) -> None:
    desk.workers = [worker()]
    assert await desk.get("workers") == {
        "total": 1,
        "workers": [
            {
                "id": ANN,
                "agent": "p2pnet/0.1.0",
                "state": "healthy",
                "reason": None,
                "cooldown_s": None,
                "models": [
                    {
                        "id": "tiny",
                        "task": "generate",
                        "digest": DIGEST,
                        "quantization": "none",
                        "dtype": "float32",
                        "context_length": 512,
                        "features": ["chat", "text"],
                        "is_cold": False,
                        "in_flight": 0,
                        "state": "healthy",
                    }
                ],
                "slots": 8,
                "in_flight": 0,
                "pressure": 0,
                "round_trip_s": None,
                "measured": {
                    "requests": 0,
                    "success_rate": None,
                    "duration_mean_s": None,
                    "duration_p95_s": None,
                    "first_token_mean_s": None,
                    "first_token_p95_s": None,
                    "tokens_per_s": None,
                },
                "load": None,
                "record_age_s": 30.0,
                "heard_age_s": None,
                "audit": {
                    "verdict": "unaudited",
                    "tokens": 0,
                    "auditors": 0,
                    "log_e": None,
                    "reason": None,
                    "until": None,
                    "compared": 0,
                    "alike": 0,
                },
            }
        ],
    }


async def test_a_used_worker_shows_what_was_measured(desk: Desk) -> None:
    used = worker()
    used.reserve(KEY, NOW_S)
    used.round_trip_s.note(0.02, NOW_S)
    used.note_load(Load(3, 1, 8, 0, 100, 400, Measure(50.0, 1), Measure(900.0, 1), Measure(0.3, 1)), NOW_S - 4)
    used.heard_s = NOW_S - 2
    desk.workers = [used]
    desk.history.note(report(attempt(ANN, "peer_lost"), attempt(BOB)))
    desk.history.note(report(attempt(ANN)))
    desk.history.note(report(attempt(ANN), arrived_unix_s=NOON_S - 100_000))
    (shown,) = (await desk.get("workers"))["workers"]
    assert shown["measured"] == {
        "requests": 2,
        "success_rate": 0.5,
        "duration_mean_s": 1.0,
        "duration_p95_s": 1.0,
        "first_token_mean_s": 0.2,
        "first_token_p95_s": 0.2,
        "tokens_per_s": 10.0,
    }
    assert shown["load"] == {
        "age_s": 4.0,
        "running": 3,
        "queued": 1,
        "slots": 8,
        "kv_free_tokens": 100,
        "kv_total_tokens": 400,
        "decode_tokens_per_s": 50.0,
        "prefill_tokens_per_s": 900.0,
        "first_token_s": 0.3,
    }
    assert (shown["in_flight"], shown["models"][0]["in_flight"], shown["pressure"]) == (1, 1, 5)
    assert (shown["round_trip_s"], shown["heard_age_s"]) == (0.02, 2.0)


async def test_a_lost_worker_shows_none_of_its_slots_in_use(desk: Desk) -> None:
    lost = worker(ANN)
    lost.reserve(KEY, NOW_S)
    lost.note_load(Load(running=3, slots=8), NOW_S - 4)
    desk.lost = [lost]
    (shown,) = (await desk.get("workers"))["workers"]
    assert shown["state"] == "lost"
    assert (shown["in_flight"], shown["models"][0]["in_flight"], shown["pressure"]) == (0, 0, 0)


async def test_states_are_shown_with_their_reasons(desk: Desk) -> None:
    cooling, lost = worker(ANN), worker(BOB)
    for failed in (cooling, lost):
        failed.health.note_failure(NOW_S, "peer_lost")
    desk.workers, desk.lost = [cooling], [lost]
    states = []
    for later_s in (0.0, 0.5, 100.0):
        desk.now_s = NOW_S + later_s
        shown = (await desk.get("workers"))["workers"]
        states.append([(one["state"], one["reason"]) for one in shown])
        if later_s == 0.5:
            cooling_until_s = cooling.health.cooling_until_s
            assert cooling_until_s is not None
            assert shown[0]["cooldown_s"] == pytest.approx(cooling_until_s - desk.now_s)
    assert states == [[(state, "peer_lost"), ("lost", "peer_lost")] for state in ("cooling", "cooling", "trial")]
    assert shown[0]["cooldown_s"] is None


@pytest.mark.parametrize(
    ("query", "ids", "total"),
    [
        ({}, [ANN, BOB], 2),
        ({"limit": 1}, [ANN], 2),
        ({"model": "large"}, [BOB], 1),
        ({"model": "tiny", "limit": 1}, [ANN], 2),
        ({"worker": BOB}, [BOB], 1),
        ({"worker": BOB, "model": "none"}, [], 0),
        ({"worker": "\x00'; DROP TABLE requests"}, [], 0),
    ],
    ids=str,
)
async def test_workers_are_picked(query: dict[str, Any], ids: list[str], total: int, desk: Desk) -> None:
    desk.workers = [worker(BOB, "tiny", "large"), worker(ANN)]
    page = await desk.get("workers", **query)
    assert ([one["id"] for one in page["workers"]], page["total"]) == (ids, total)


async def test_a_model_that_ranks_is_shown_as_one(desk: Desk) -> None:
    """Its requests and its health are counted by what is asked of it, not by the task on its card."""
    ranks = worker(models=(card("ranks", task="embed", features=("rerank",)),))
    ranks.reserve(("ranks", "rerank"), NOW_S)
    desk.workers = [ranks]
    (shown,) = (await desk.get("models"))["models"]
    assert (shown["tasks"], shown["in_flight"]) == (["rerank"], 1)
    (model,) = (await desk.get("workers"))["workers"][0]["models"]
    assert (model["task"], model["in_flight"]) == ("rerank", 1)


async def test_models_are_shown_over_their_workers(desk: Desk) -> None:
    other = "sha256:" + "cd" * 32
    both = worker(ANN)
    both.record = msgspec.structs.replace(
        both.record, models=(card("tiny"), card("tiny", task="embed", digest=other, context_length=1024))
    )
    both.reserve(KEY, NOW_S)
    failed, lost = worker(BOB), worker(peer("eve").peer_id)
    failed.health.note_failure(NOW_S, "peer_lost")
    desk.workers, desk.lost, desk.waiting = [both, failed], [lost], {"tiny": 3, "wished": 1}
    assert (await desk.get("models"))["models"] == [
        {
            "id": "tiny",
            "tasks": ["embed", "generate"],
            "workers": 2,
            "states": {"healthy": 1, "cooling": 1, "lost": 1},
            "slots": 16,
            "in_flight": 1,
            "waiting": 3,
            "digests": [DIGEST, other],
            "context_length": 1024,
            "features": ["chat", "text"],
            "missing": [],
        },
        {
            "id": "wished",
            "tasks": [],
            "workers": 0,
            "states": {},
            "slots": 0,
            "in_flight": 0,
            "waiting": 1,
            "digests": [],
            "context_length": None,
            "features": [],
            "missing": [],
        },
    ]


async def test_a_request_is_shown_with_its_route_and_without_its_callers_name(desk: Desk) -> None:
    desk.history.note(
        report(attempt(ANN, "peer_lost", tokens=2), attempt(BOB, began_s=1.25, choice=1), gap_s=0.25, cached_tokens=4)
    )
    shown = await desk.get("requests")
    (one,) = shown["requests"]
    caller = one.pop("caller")
    assert caller.isalnum()
    assert len(caller) == 8
    assert "10.1.2" not in str(shown)
    attempts = one.pop("attempts")
    assert one == {
        "number": 1,
        "arrived": "2023-11-14T22:13:20Z",
        "request_id": "request",
        "model": "tiny",
        "task": "generate",
        "outcome": "stop",
        "queued_s": 0.05,
        "duration_s": 1.5,
        "first_token_s": 0.5,
        "gap_s": 0.25,
        "prompt_tokens": 7,
        "completion_tokens": 11,
        "cached_tokens": 4,
    }
    assert attempts[1] == {
        "worker": BOB,
        "why": "quicker",
        "began_s": 1.25,
        "outcome": "stop",
        "duration_s": 1.0,
        "first_token_s": 0.2,
        "tokens": 9,
        "choice": 1,
        "is_hedge": False,
    }
    assert (attempts[0]["worker"], attempts[0]["outcome"], attempts[0]["tokens"]) == (ANN, "peer_lost", 2)


async def test_pages_lead_through_all_requests(desk: Desk) -> None:
    for number in range(1, 8):
        desk.history.note(report(attempt(ANN if number % 2 else BOB), model="tiny" if number < 7 else "large"))
    seen, before = [], None
    while True:
        query = {"limit": 3, "model": "tiny"} | ({} if before is None else {"before": before})
        page = await desk.get("requests", **query)
        seen.append([one["number"] for one in page["requests"]])
        if (before := page["next_before"]) is None:
            break
    assert seen == [[6, 5, 4], [3, 2, 1], []]
    assert [one["number"] for one in (await desk.get("requests", worker=BOB))["requests"]] == [6, 4, 2]
    assert (await desk.get("requests", outcome="peer_lost"))["requests"] == []


@pytest.mark.parametrize("path", ["requests", "workers"])
@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1e3", "", "x", "9" * 5000, "٣", "1.0"])
async def test_a_limit_that_is_none_is_refused(path: str, limit: str, desk: Desk) -> None:
    response = await desk.http.get(f"/p2pnet/v1/{path}", params={"limit": limit})
    assert (response.status_code, response.json()) == (400, {"param": "limit"})


@pytest.mark.parametrize("before", ["0", "-5", "x", "9" * 20])
async def test_a_number_that_is_none_is_refused(before: str, desk: Desk) -> None:
    response = await desk.http.get("/p2pnet/v1/requests", params={"before": before})
    assert (response.status_code, response.json()) == (400, {"param": "before"})


async def test_choices_are_shown_with_what_they_were_made_on(desk: Desk) -> None:
    chosen = worker()
    considered = Considered(ANN, 0.4, 1, 2, 8, State.HEALTHY, 0.3, None, 0.02)
    unknown = Considered(BOB, float("inf"), 0, 0, 1, State.TRIAL, None, None, None)
    ask = RouteQuery("tiny", digest=DIGEST, features=frozenset({"text", "chat"}), tokens=99, affinity=b"secret")
    desk.choices.note(RouteQuery("tiny"), WorkerChoice(chosen, "only one"))
    desk.choices.note(ask, WorkerChoice(chosen, "quicker of two", (considered, unknown)))
    newest, oldest = (await desk.get("choices"))["choices"]
    assert newest == {
        "at": "2023-11-14T22:13:21.500000Z",
        "model": "tiny",
        "task": "generate",
        "digest": DIGEST,
        "features": ["chat", "text"],
        "tokens": 99,
        "worker": ANN,
        "why": "quicker of two",
        "considered": [
            {
                "worker": ANN,
                "expected_s": 0.4,
                "in_flight": 1,
                "pressure": 2,
                "slots": 8,
                "state": "healthy",
                "first_token_s": 0.3,
                "token_s": None,
                "round_trip_s": 0.02,
            },
            {
                "worker": BOB,
                "expected_s": None,
                "in_flight": 0,
                "pressure": 0,
                "slots": 1,
                "state": "trial",
                "first_token_s": None,
                "token_s": None,
                "round_trip_s": None,
            },
        ],
    }
    assert (oldest["why"], oldest["considered"]) == ("only one", [])


async def test_only_the_last_choices_are_kept(desk: Desk) -> None:
    for number in range(300):
        desk.choices.note(RouteQuery(f"model-{number}"), WorkerChoice(worker(), "only one"))
    shown = [one["model"] for one in (await desk.get("choices"))["choices"]]
    assert shown == [f"model-{number}" for number in range(299, 99, -1)]


async def test_prometheus_gets_its_page(desk: Desk) -> None:
    desk.metrics.note(report(attempt()))
    response = await desk.http.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'p2pnet_gateway_attempts_total{outcome="stop"} 1.0' in response.text
