"""A GGUF file lent to the network by real processes: what clients get of it, and what is refused before it joins."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.depth import scaled
from tests.e2e.asking import OpenStream, models, streamed, workers_listed
from tests.gguf_files import real_gguf
from tests.processes import Process, Start, processes, run, wait_until

pytestmark = pytest.mark.timeout(scaled(ci=300, deep=1200))

NAME = "gemma-3-270m-q4_k_m"
TOKENS = 48
KILLS = scaled(ci=1, deep=20)
"""In mid-answer, each after another number of chunks."""

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}


@dataclass
class Swarm:
    """Two workers with the same file, and a gateway."""

    start: Start
    address: str
    url: str
    workers: list[Process] = field(default_factory=list)

    def add_worker(self) -> None:
        arguments = ("--model", str(real_gguf()), "--context", "1024", "--kv-memory", "100MB")
        self.workers.append(self.start.worker(*arguments, peer=self.address, name=f"gguf{len(self.workers)}"))

    def wait_for_two(self) -> None:
        for worker in self.workers[-2:]:
            worker.wait_ready()
        wait_until(lambda: workers_listed(self.url, NAME) == 2, "the gateway lists two workers of the file")


@pytest.fixture(scope="module")
def swarm() -> Iterator[Swarm]:
    with processes("gguf") as start:
        bootstrap = start.bootstrap()
        gateway = start.gateway(peer=bootstrap.ready.address)
        assert gateway.ready.http is not None
        running = Swarm(start, bootstrap.ready.address, gateway.ready.http)
        running.add_worker()
        running.add_worker()
        running.wait_for_two()
        yield running


def body(**fields: Any) -> dict[str, Any]:
    return {"model": NAME, "prompt": "The capital of France is", "max_tokens": TOKENS, "temperature": 0, **fields}


def completion(url: str, **fields: Any) -> Any:
    response = httpx.post(f"{url}/v1/completions", json=body(**fields), timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def test_completions_with_logprobs_and_a_schema(swarm: Swarm) -> None:
    found = completion(swarm.url, max_tokens=8, logprobs=2)
    (choice,) = found["choices"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert len(choice["logprobs"]["token_logprobs"]) == 8
    assert streamed(swarm.url, NAME, body()["prompt"], 8).text == choice["text"]
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    (choice,) = completion(swarm.url, response_format=form)["choices"]
    assert json.loads(choice["text"]) in ({"city": "Paris"}, {"city": "Rome"})


def test_what_this_model_does_not_do_is_refused(swarm: Swarm) -> None:
    """A prompt over the context, a chat without a template, vectors from a model that generates."""
    long = httpx.post(f"{swarm.url}/v1/completions", json=body(prompt="word " * 2000), timeout=60)
    assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "1024 tokens" in long.json()["error"]["message"]
    chat = {"model": NAME, "messages": [{"role": "user", "content": "Hello"}]}
    assert httpx.post(f"{swarm.url}/v1/chat/completions", json=chat, timeout=60).status_code == 400
    vectors = httpx.post(f"{swarm.url}/v1/embeddings", json={"model": NAME, "input": "Hello"}, timeout=60)
    assert (vectors.status_code, vectors.json()["error"]["param"]) == (400, "model")
    assert models(swarm.url) == [NAME]


def test_killed_in_mid_answer(swarm: Swarm) -> None:
    """Given two workers with an answer each, when one is killed, then both answers are complete: no token is lost,
    doubled or torn. Nearly always they are the same as undisturbed."""
    whole = streamed(swarm.url, NAME, body()["prompt"], TOKENS, ignore_eos=True).text
    same = 0
    for kill in range(KILLS):
        swarm.wait_for_two()
        with OpenStream(swarm.url, body(ignore_eos=True)) as one, OpenStream(swarm.url, body(ignore_eos=True)) as other:
            for stream in (one, other):
                stream.read_chunks(1 + kill)
            victim = swarm.workers.pop(-2)
            before = [one.text, other.text]
            victim.send(signal.SIGKILL)
            one.read_all()
            other.read_all()
        for stream, start in zip((one, other), before, strict=True):
            assert stream.error is None
            assert (stream.is_done, stream.finish_reason) == (True, "length")
            assert stream.text.startswith(start)
            same += stream.text == whole
        if kill + 1 < KILLS:
            swarm.add_worker()
    assert same >= 0.8 * 2 * KILLS


@pytest.mark.parametrize(
    ("content", "flags", "said", "fix"),
    [
        (b"ZZZZ and so on", (), "bad.gguf is no GGUF file.", ".gguf"),
        (None, (), "does not exist.", "Check the path"),
        (b"GGUF\x03\0\0\0 and so on", ("--quantization", "4bit"), "whose numbers are as they are", "--quantization"),
    ],
)
def test_a_bad_file_is_said_before_the_network_is_joined(
    tmp_path: Path, content: bytes | None, flags: tuple[str, ...], said: str, fix: str
) -> None:
    """No peer listens at the address that is to be joined, and nobody waits for one."""
    if content is not None:
        (tmp_path / "bad.gguf").write_bytes(content)
    nobody = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWNyF8WYdsTGpsjdb2Kyr9zPuzR9DWzT6kmQWGx2HW3EFb"
    done = run("serve", "--model", str(tmp_path / "bad.gguf"), "--initial-peers", nobody, *flags, root=tmp_path)
    assert done.status == 1
    assert said in done.stderr
    assert fix in done.stderr
