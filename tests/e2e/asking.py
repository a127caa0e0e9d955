"""What end-to-end stories ask of gateways over HTTP and of workers over libp2p, and how they wait for an answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx

from p2pnet.client import generate
from p2pnet.messages import Accepted, Finished, GenerateRequest, Sampling, TextDelta, TextPrompt
from p2pnet.peer import Peer
from tests.processes import POLL_S, Process

QUESTION = "What is p2pnet?"
KEY_FACT = "nobody in charge"


class Stream:
    """One streamed completion as the client of a gateway sees it."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.iter_lines()
        self.text = ""
        self.chunks = 0
        self.is_done = False
        self.finish_reason: str | None = None
        self.error: dict[str, Any] | None = None
        self.usage: dict[str, int] | None = None

    def read_chunks(self, wanted: int) -> None:
        """Read until so many chunks have come in all."""
        while self.chunks < wanted:
            assert self._read_event(), "the stream ended early"

    def read_all(self) -> None:
        while self._read_event():
            pass

    def _read_event(self) -> bool:
        data = next((line[6:] for line in self._lines if line.startswith("data: ")), None)
        if data is None:
            return False
        assert not self.is_done, "something follows [DONE]"
        assert self.error is None, "something follows an error"
        self.chunks += 1
        if data == "[DONE]":
            self.is_done = True
            return True
        event = json.loads(data)
        self.error = event.get("error")
        self.usage = event.get("usage")
        for choice in event.get("choices", ()):
            self.text += choice["text"]
            self.finish_reason = choice["finish_reason"]
        return True


class OpenStream:
    """Asks for a streamed completion; leaving it closes the connection, whatever is still to come."""

    def __init__(self, url: str, body: dict[str, Any]) -> None:
        self._client = httpx.Client(timeout=60)
        self._response = self._client.stream("POST", f"{url}/v1/completions", json={**body, "stream": True})

    def __enter__(self) -> Stream:
        response = self._response.__enter__()
        if response.status_code != 200:
            response.read()
            raise AssertionError(response.text)
        return Stream(response)

    def __exit__(self, *exception: Any) -> None:
        self._response.__exit__(*exception)
        self._client.close()


def open_stream(url: str, model: str, tokens: int) -> OpenStream:
    """An answer of exactly so many tokens."""
    return OpenStream(
        url, {"model": model, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    )


def streamed(url: str, model: str, prompt: str, max_tokens: int, ignore_eos: bool = False) -> Stream:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": ignore_eos}
    with OpenStream(url, body) as stream:
        stream.read_all()
    assert stream.is_done
    return stream


def ask(url: str, model: str, **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, **fields}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def status_of(url: str, model: str) -> int:
    """The HTTP status of a request for one token that does not wait for a worker."""
    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    return httpx.post(f"{url}/v1/completions", json=body, headers={"x-p2pnet-wait-s": "0"}, timeout=60).status_code


def models(url: str) -> list[str]:
    response = httpx.get(f"{url}/v1/models", timeout=30)
    return [model["id"] for model in response.json()["data"]]


def workers_listed(url: str, model: str) -> int:
    """How many workers of a model the gateway sees."""
    response = httpx.get(f"{url}/v1/models", timeout=30)
    return sum(entry["workers"] for entry in response.json()["data"] if entry["id"] == model)


def request_for(model: str, prompt: str, max_tokens: int, ignore_eos: bool = False) -> GenerateRequest:
    greedy = Sampling(temperature=0)
    return GenerateRequest("e2e", model, TextPrompt(prompt), greedy, max_tokens, ignore_eos=ignore_eos)


async def exchange(client: Peer, worker: Process, request: GenerateRequest) -> tuple[list[TextDelta], Finished]:
    """One exchange with one worker, by p2pnet's own client."""
    events = generate(client.network, worker.ready.peer_id, request, worker.ready.addresses)
    accepted, *deltas, finished = [event async for event in events]
    assert isinstance(accepted, Accepted)
    assert isinstance(finished, Finished)
    return [delta for delta in deltas if isinstance(delta, TextDelta)], finished


async def until(condition: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> float:
    """Wait for something that has to be asked for; returns how long that took in seconds."""
    began_s = time.monotonic()
    while not await condition():
        assert time.monotonic() - began_s < timeout_s, f"not within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s
