"""A bootstrap, a worker and a gateway as processes on loopback, whose models answer by a script: for clients' stories.

Started once for all files that a test process runs: it costs some seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.gateway.weather_model import CALLS, FORECAST, TEXT, WEATHER_JSON
from tests.processes import processes, wait_until

WEATHER = [
    {"when": "json", "text": WEATHER_JSON},
    {"when": "result", "text": FORECAST},
    {"when": "tools", "calls": [{"arguments": call.arguments} for call in CALLS]},
    {"text": TEXT},
]
"""What `weather_model.weather_script` says, as `p2pnet serve --script` has it."""

SLOTS = 8
CONTEXT_LENGTH = 16384

SCRIPT = [
    {"model": "scripted", "answers": WEATHER, "context_length": CONTEXT_LENGTH},
    {"model": "seeds", "answers": [{"text": "seed $seed"}]},
    {"model": "breaks", "answers": WEATHER, "fails_after_tokens": 3},
    {"model": "slow", "answers": [{"text": "so " * 1000}], "token_delay_s": 0.05},
    {"model": "echo"},
    {"model": "vectors", "dimensions": 4},
]


@contextmanager
def real_swarm() -> Iterator[str]:
    """The gateway's URL."""
    with processes("clients") as start:
        script = start.root / "script.json"
        script.write_text(json.dumps(SCRIPT))
        peer = start.bootstrap().ready.address
        worker = start.worker("--script", str(script), "--max-concurrency", str(SLOTS), peer=peer)
        gateway = start.gateway("--alias", "gpt-4o-mini=scripted", peer=peer)
        worker.wait_ready()
        url = gateway.ready.http
        assert url is not None
        wait_until(lambda: _models(url) == {str(model["model"]) for model in SCRIPT}, "the gateway lists the models")
        yield url


def _models(url: str) -> set[str]:
    return {model["id"] for model in httpx.get(f"{url}/v1/models").json()["data"]}
