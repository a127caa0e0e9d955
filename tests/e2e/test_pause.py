"""A worker whose owner comes first, as real processes: a signal, hours that are not now, and a machine that is busy."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from p2pnet.client import generate
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import Draining
from p2pnet.messages import GenerateRequest, TextPrompt
from p2pnet.peer import Peer
from tests.e2e.scripted import scripted
from tests.processes import Process, Start, processes, run, wait_until

pytestmark = pytest.mark.timeout(300)

LONG = 1500
"""Tokens of an answer that is still running when a signal has arrived."""

OPENS = datetime.now() + timedelta(hours=6)
HOURS = f"{OPENS:%H:%M}-{OPENS + timedelta(hours=1):%H:%M}"


@dataclass(frozen=True)
class Swarm:
    """A bootstrap, a gateway, and a worker for each story, whose model is called as the worker."""

    start: Start
    address: str
    url: str
    workers: dict[str, Process]

    def listed(self) -> set[str]:
        """The models that the gateway lists."""
        return {model["id"] for model in httpx.get(f"{self.url}/v1/models", timeout=30).json()["data"]}

    def status(self, model: str) -> int:
        """The HTTP status of a request for one token."""
        body = {"model": model, "prompt": "Hello", "max_tokens": 1}
        headers = {"x-p2pnet-wait-s": "0"}
        return httpx.post(f"{self.url}/v1/completions", json=body, headers=headers, timeout=60).status_code


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("pause") as start:
        address = start.bootstrap().ready.address
        hours = ("--schedule", HOURS, "--pause-when-busy", "1")
        workers = {
            "signalled": scripted(start, address, "signalled", "so " * (LONG + 1)),
            "closed": start.worker("--model", "tiny", "--served-name", "closed", *hours, peer=address, name="closed"),
        }
        url = start.gateway(peer=address).ready.http
        assert url is not None
        for worker in workers.values():
            worker.wait_ready()
        yield Swarm(start, address, url, workers)


@contextmanager
def long_answer(swarm: Swarm, model: str) -> Iterator[Iterator[dict[str, Any]]]:
    """The chunks of a streamed completion, up to [DONE]."""
    body = {"model": model, "prompt": "Hello", "max_tokens": LONG, "ignore_eos": True, "temperature": 0}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", f"{swarm.url}/v1/completions", json=body, timeout=60) as response:
        assert response.status_code == 200

        def chunks() -> Iterator[dict[str, Any]]:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield json.loads(line[6:])
            raise AssertionError("the stream ended early")

        yield chunks()


def test_a_signal_pauses_and_the_next_one_resumes(swarm: Swarm) -> None:
    # Given a worker in the middle of a long answer.
    worker = swarm.workers["signalled"]
    wait_until(lambda: "signalled" in swarm.listed(), "the gateway lists the worker")
    with long_answer(swarm, "signalled") as chunks:
        first = [next(chunks) for _ in range(3)]
        # When its owner pauses it.
        worker.send(signal.SIGUSR1)
        # Then the gateway stops listing it, and new requests are turned away.
        wait_until(lambda: "signalled" not in swarm.listed(), "the gateway lists the worker no more", timeout_s=20)
        assert "paused by SIGUSR1" in worker.log
        assert swarm.status("signalled") == 503
        # And the answer is complete.
        rest = list(chunks)
    assert [chunk["error"] for chunk in rest if "error" in chunk] == []
    assert rest[-1]["usage"]["completion_tokens"] == LONG
    reasons = {choice["finish_reason"] for chunk in first + rest for choice in chunk["choices"]}
    assert reasons == {None, "length"}
    # When its owner resumes it, then it is listed and serves.
    worker.send(signal.SIGUSR1)
    wait_until(lambda: "signalled" in swarm.listed(), "the gateway lists the worker again", timeout_s=20)
    wait_until(lambda: swarm.status("signalled") == 200, "the worker serves again", timeout_s=20)
    assert "SIGUSR1 came again: serving again" in worker.log
    # When it is stopped while it is paused, then nothing is left.
    worker.send(signal.SIGUSR1)
    wait_until(lambda: worker.log.count("paused by SIGUSR1") == 2, "it is paused once more")
    assert worker.stop() == 0
    assert worker.leftovers() == []


async def test_a_worker_starts_paused_outside_its_hours(swarm: Swarm, tmp_path: Path) -> None:
    """It is ready, says until when it is paused, is in nobody's list, and refuses who asks it directly. Meanwhile it
    notices that the machine is busy."""
    worker = swarm.workers["closed"]
    until = f"paused until {OPENS:%H:%M}, as the schedule says"
    assert f"It is {until}." in worker.log
    assert worker.log.count(until) == 2, "the log says it too"
    config = NetworkConfig(
        tmp_path / "client.key", LOOPBACK_LISTEN, initial_peers=(worker.ready.address,), is_client=True
    )
    client = await Peer.join(config)
    try:
        assert await client.directory.workers_of("closed") == ()
        request = GenerateRequest("e2e", "closed", TextPrompt("Hello"))
        with pytest.raises(Draining, match="the owner of this worker is using it"):
            await anext(generate(client.network, worker.ready.peer_id, request, worker.ready.addresses))
    finally:
        await client.close()
    assert "closed" not in swarm.listed()
    with burning():
        wait_until(lambda: "also paused while other programs use this machine" in worker.log, "it notices them")
    assert worker.stop() == 0
    assert worker.leftovers() == []


@contextmanager
def burning() -> Iterator[None]:
    """Programs that use more than a hundredth of all cores."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(1 + (os.cpu_count() or 1) // 50)
    ]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


UPSTREAM = ("--upstream", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--schedule", "22:00"), ("'22:00'", '"22:00-07:00"')),
        (("--schedule", "moonday 22:00-07:00"), ("moonday", '"22:00-07:00"')),
        ((*UPSTREAM, "--pause-when-busy", "50"), ("--pause-when-busy", "--schedule and SIGUSR1")),
    ],
)
def test_wishes_that_cannot_be_granted(swarm: Swarm, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    outcome = run("serve", "--model", "tiny", *flags, "--initial-peers", swarm.address, root=swarm.start.root)
    assert outcome.status == 1
    assert "Traceback" not in outcome.stderr
    for word in ("Error: ", *words):
        assert word in outcome.stderr


@pytest.mark.parametrize("percent", ["0", "101", "half"])
def test_a_percentage_that_is_none(swarm: Swarm, percent: str) -> None:
    outcome = run("serve", "--model", "tiny", "--pause-when-busy", percent, root=swarm.start.root)
    assert outcome.status == 2
    assert "--pause-when-busy" in outcome.stderr
