"""Large prompts: too long for any context, waiting for a worker, or never there in full."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from bench.harness.attacks import slow_bodies, waiting_bodies
from bench.harness.siege import Besieged, assert_held, siege
from bench.harness.storm import wait_for_workers
from tests.depth import scaled

SECONDS = scaled(ci=4.0, deep=20.0)
BODIES = scaled(ci=80, deep=250)
"""80 of them are 312 MB, thrice of what a process may grow by."""

LONG = "A peer is a worker, a bootstrap or a gateway. " * 85_000
"""3.9 MB."""


SMALL = "small"
SCRIPT = [{"model": SMALL, "answers": [{"text": "Hi"}], "context_length": 4096}]


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    script = tmp_path_factory.mktemp("script") / "models.json"
    script.write_text(json.dumps(SCRIPT))
    with siege(workers=1) as made:
        made.running.worker(made.processes["bootstrap"], "--script", str(script))
        asyncio.run(wait_for_workers(made.target.url, SMALL, 1))
        yield made


async def test_prompts_that_wait_are_bounded_in_bytes(besieged: Besieged) -> None:
    """Given honest requests, when prompts of 3.9 MB wait for a model, then the gateway keeps a few of them."""
    assert_held(await besieged.withstand(partial(waiting_bodies.attack, bodies=BODIES), SECONDS))


async def test_bodies_that_arrive_are_bounded_in_bytes(besieged: Besieged) -> None:
    """Given honest requests, when bodies of 3.9 MB come but for one byte, then the gateway keeps a few of them."""
    assert_held(await besieged.withstand(partial(slow_bodies.attack, bodies=BODIES), SECONDS))


CHAT: dict[str, Any] = {"model": SMALL, "messages": [{"role": "user", "content": LONG}], "max_tokens": 5}
PROMPTS: dict[str, tuple[str, dict[str, Any]]] = {
    "OpenAI, chat": ("/v1/chat/completions", CHAT),
    "OpenAI, text": ("/v1/completions", {"model": SMALL, "prompt": LONG}),
    "OpenAI, ids": ("/v1/completions", {"model": SMALL, "prompt": [1] * 500_000}),
    "OpenAI, responses": ("/v1/responses", {"model": SMALL, "input": LONG}),
    "Ollama": ("/api/chat", CHAT),
    "Anthropic": ("/v1/messages", CHAT),
    "FauxPilot": ("/v1/engines/small/completions", {"prompt": LONG}),
}


@pytest.mark.parametrize("kind", PROMPTS)
async def test_a_prompt_too_long_for_any_context_goes_to_nobody(besieged: Besieged, kind: str) -> None:
    """It is refused as one that a worker has found to be too long, before a worker has seen it."""
    path, body = PROMPTS[kind]
    async with httpx.AsyncClient(base_url=besieged.target.url, timeout=30) as http:
        began_s = time.perf_counter()
        response = await http.post(path, content=json.dumps(body).encode())
        took_s = time.perf_counter() - began_s
        last = (await http.get("/p2pnet/v1/requests?limit=1")).json()["requests"][0]
    assert response.status_code == 400
    error = response.json()["error"]
    assert "maximum context length is" in (error if isinstance(error, str) else error["message"])
    assert last["attempts"] == []
    assert took_s < 2.0
