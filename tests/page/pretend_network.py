"""Networks made up, as a gateway tells of them: of any size, in every state, with names of any kind."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from p2pnet.identity import Identity

Section = dict[str, Any]

GATEWAY_AGE_S = 3 * 86400 + 4 * 3600
POINTS = 360
STEP_S = 10
NAMES = (
    *("attic", "annas-study", "blue-whale", "lab-3", "old-gaming-pc", "kitchen", "tokyo-1", "graph.example", "cellar"),
    *("night-shift", "spare-laptop", "office-tower", "zoe", "pi-cluster", "reading-room", "render-node-7"),
)
MODELS = ("tiny", "qwen3-8b-instruct", "llama-3.2-3b", "all-minilm-l6-v2")
EMBEDS = frozenset({"all-minilm-l6-v2"})


def peer_id(name: str) -> str:
    """A real one, the same for the same name."""
    return Identity.from_seed(name.encode().ljust(32, b".")[:32]).peer_id


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def network(
    workers: int, bootstraps: int = 2, seed: int = 1, name: Callable[[int], str] | None = None, model: str | None = None
) -> dict[str, Any]:
    """All sections. `name` gives a worker's by its number, `model` is the one that all of them have."""
    rng = random.Random(seed)
    relays = [peer_id(f"bootstrap {n}") for n in range(bootstraps)]
    shown = [_worker(rng, n, relays, name, model) for n in range(workers)]
    return {
        "gateway": _gateway(rng, shown),
        "models": _models(shown),
        "workers": {"workers": shown[:200], "total": workers},
        "mesh": _mesh(shown, relays),
        "series": _series(rng, len(shown)),
        "failures": {"failures": _failures(rng, shown)},
        "volunteers": {"volunteers": _volunteers(shown)},
    }


def _gateway(rng: random.Random, workers: list[Section]) -> Section:
    return {
        "id": peer_id("gateway"),
        "agent": "p2pnet/0.1.0",
        "started": ago(GATEWAY_AGE_S),
        "in_flight": sum(worker["in_flight"] for worker in workers),
        "waiting": 2 if len(workers) > 1 else 0,
        "requests_per_s": round(len(workers) * 0.37, 2),
        "tokens_per_s": round(len(workers) * 21.4, 1),
        "is_ready": True,
    }


def _worker(
    rng: random.Random, number: int, relays: list[str], name: Callable[[int], str] | None, model: str | None
) -> Section:
    state = "healthy" if number < 3 else rng.choices(["healthy", "trial", "cooling", "lost"], [90, 3, 5, 2])[0]
    slots = rng.choice([2, 4, 8, 16])
    in_flight = rng.randrange(slots + 1) if state == "healthy" else 0
    is_relayed = number % 3 == 2 and bool(relays)
    models = [model] if model else sorted(rng.sample(MODELS, rng.choice([1, 1, 2])))
    reasons = {"trial": "peer_lost", "cooling": "worker_failed", "lost": "peer_unreachable"}
    called = NAMES[number] if number < len(NAMES) else ""
    return {
        "id": peer_id(f"worker {number}"),
        "name": name(number) if name else called,
        "agent": "p2pnet/0.1.0",
        "state": state,
        "reason": reasons.get(state),
        "cooldown_s": 6.0 if state == "cooling" else None,
        "models": [
            {"id": one, "task": "embed" if one in EMBEDS else "generate", "digest": "sha256:" + "ab" * 32,
             "quantization": "", "dtype": "float32", "context_length": 8192, "features": ["chat"], "is_cold": False,
             "in_flight": in_flight}
            for one in models
        ],
        "slots": slots,
        "in_flight": in_flight,
        "pressure": in_flight,
        "round_trip_s": rng.uniform(0.005, 0.2),
        "measured": {
            "requests": 40 * (number + 1),
            "success_rate": 1.0 if number % 2 else rng.uniform(0.9, 1.0),
            "duration_mean_s": 4.2, "duration_p95_s": 9.1,
            "first_token_mean_s": rng.uniform(0.05, 1.8), "first_token_p95_s": 2.5,
            "tokens_per_s": rng.uniform(8, 90),
        },
        "reached": ("relayed" if number % 4 > 1 else "punched") if is_relayed else "direct",
        "relays": [relays[number % len(relays)]] if is_relayed else [],
        "since": ago(rng.uniform(30, 200_000)),
    }  # fmt: skip


def _models(workers: list[Section]) -> list[Section]:
    found: dict[str, Section] = {}
    for worker in workers:
        for served in worker["models"]:
            model = found.setdefault(
                served["id"],
                {"id": served["id"], "tasks": [served["task"]], "workers": 0, "states": {}, "slots": 0, "in_flight": 0,
                 "waiting": 0, "missing": [], "digests": [served["digest"]],
                 "features": [] if served["task"] == "embed" else ["chat"],
                 "context_length": 8192, "tokens_per_s": 0.0},
            )  # fmt: skip
            model["workers"] += 1
            model["slots"] += worker["slots"]
            model["in_flight"] += worker["in_flight"]
            model["tokens_per_s"] = None if served["task"] == "embed" else worker["measured"]["tokens_per_s"]
    return [found[name] for name in sorted(found)]


def _mesh(workers: list[Section], relays: list[str]) -> Section:
    gateway = peer_id("gateway")
    nodes = [{"id": gateway, "kind": "gateway", "name": ""}]
    nodes += [{"id": relay, "kind": "bootstrap", "name": ""} for relay in relays]
    nodes += [{"id": worker["id"], "kind": "worker", "name": worker["name"]} for worker in workers]
    links = [{"from": gateway, "to": relay, "kind": "joined"} for relay in relays]
    links += [{"from": gateway, "to": worker["id"], "kind": worker["reached"]} for worker in workers]
    links += [
        {"from": worker["id"], "to": relay, "kind": "reserved"} for worker in workers for relay in worker["relays"]
    ]
    return {"nodes": nodes, "links": links}


def _series(rng: random.Random, workers: int) -> Section:
    points = []
    for n in range(POINTS if workers else 30):
        busy = workers * (1.2 + math.sin(n / 45) + rng.uniform(-0.3, 0.3)) if n > 40 else 0
        requests = max(0, round(busy))
        first_s = 0.2 + 0.1 * math.sin(n / 30) + rng.uniform(0, 0.05)
        points.append({
            "requests": requests, "failures": 0, "tokens": requests * 57,
            "first_token_p50_s": first_s if requests else None,
            "first_token_p95_s": first_s * (2.2 + rng.uniform(0, 1)) if requests else None,
        })  # fmt: skip
    return {"step_s": STEP_S, "end": ago(0), "points": points}


def _volunteers(workers: list[Section]) -> list[Section]:
    named = [worker for worker in workers if worker["name"]][:50]
    return [
        {"id": worker["id"], "name": worker["name"], "answers": 40 * number, "tokens": 12_345 * number}
        for number, worker in zip(range(len(named), 0, -1), named, strict=True)
    ]


def request(request_id: str, first: str, then: str, model: str = "tiny") -> Section:
    """One that waited, began at a worker, and went on at another one."""
    common = {"choice": None, "is_hedge": False}
    return {
        "number": 7, "request_id": request_id, "arrived": ago(60), "model": model, "task": "generate", "caller": "ab12",
        "outcome": "stop", "queued_s": 0.4, "duration_s": 4.0, "first_token_s": 0.9, "gap_s": 0.3,
        "prompt_tokens": 1200, "completion_tokens": 90, "cached_tokens": 1100,
        "attempts": [
            {"worker": first, "why": "fastest", "began_s": 0.4, "outcome": "peer_lost", "duration_s": 1.6,
             "first_token_s": 0.5, "tokens": 30, **common},
            {"worker": then, "why": "only_one", "began_s": 2.0, "outcome": "stop", "duration_s": 2.0,
             "first_token_s": 0.3, "tokens": 60, **common},
        ],
    }  # fmt: skip


def _failures(rng: random.Random, workers: list[Section]) -> list[Section]:
    if len(workers) < 2:
        return []
    kinds = (
        ("peer_lost", "resumed", 0.13),
        ("busy", "retried", None),
        ("cancelled", "hedged", None),
        ("peer_lost", "gave_up", None),
    )
    now = datetime.now(UTC)
    return [
        {"at": (now - timedelta(seconds=97 * n + 5)).isoformat().replace("+00:00", "Z"), "request_id": f"request-{n}",
         "model": workers[n % len(workers)]["models"][0]["id"], "worker": workers[n % len(workers)]["id"],
         "outcome": outcome,
         "done": done, "by": None if done == "gave_up" else workers[(n + 1) % len(workers)]["id"], "gap_s": gap_s}
        for n in range(min(12, len(workers)))
        for outcome, done, gap_s in [kinds[n % len(kinds)]]
    ]  # fmt: skip
