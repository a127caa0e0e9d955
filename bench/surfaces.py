"""What each surface of the gateway adds to a small request: parsing, rendering, keys, ids, and the way through the app.

    python -m bench.surfaces [--requests 2000]

One server on loopback, with an answer of one word that is there at once, and with a key that is checked. Beside the
surfaces, in turns over the same kind of connection, a route without any of them: it reads the body and sends a document
of usual size. What a surface adds is the difference of the medians (aim: less than 1 ms).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.table import Table
from starlette.types import Receive, Scope, Send

from bench.harness.http_client import Connection
from gateway.app import create_app
from gateway.http.access import Access, KeyRing
from gateway.http.keys import ApiKey, hash_key, new_key, write_keys
from gateway.http.server import serve_http
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent, ModelEntry
from gateway.service import GatewayService
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta, Usage

WARM_UP = 100
AIM_MS = 1.0
PLAIN = "no surface"

MESSAGES = [{"role": "user", "content": "Say one word."}]
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("/plain", {"model": "tiny", "messages": MESSAGES}),
    "OpenAI chat": ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES}),
    "OpenAI chat, streamed": ("/v1/chat/completions", {"model": "tiny", "messages": MESSAGES, "stream": True}),
    "OpenAI completions": ("/v1/completions", {"model": "tiny", "prompt": "Say one word."}),
    "OpenAI responses": ("/v1/responses", {"model": "tiny", "input": "Say one word."}),
    "OpenAI embeddings": ("/v1/embeddings", {"model": "tiny", "input": "one", "encoding_format": "base64"}),
    "Ollama chat": ("/api/chat", {"model": "tiny", "messages": MESSAGES, "stream": False}),
    "Ollama generate": ("/api/generate", {"model": "tiny", "prompt": "Say one word.", "stream": False}),
    "Anthropic messages": ("/v1/messages", {"model": "tiny", "messages": MESSAGES, "max_tokens": 16}),
    "FauxPilot": ("/v1/engines/codegen/completions", {"prompt": "def one():"}),
}
REPLY = json.dumps({"choices": [{"message": {"role": "assistant", "content": "Word."}}], "filler": "x" * 400}).encode()


class WithPlainRoute:
    """The application, and beside it a route that does as little as a route can."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/plain":
            await self._app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(REPLY)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": REPLY})


async def generate(request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
    yield Accepted(5, "sha256:" + "ab" * 32)
    yield TextDelta("Word.", (1,))
    yield Finished("stop", Usage(5, 1))


async def embed(request: EmbedRequest, caller: Caller) -> AsyncGenerator[EmbeddingEvent, None]:
    yield Accepted(1, "sha256:" + "ab" * 32)
    yield Embedding(0, struct.pack("<64f", *([0.5] * 64)))
    yield Finished("stop", Usage(1, 0))


async def measure(requests: int) -> dict[str, list[float]]:
    """Milliseconds of each request, by surface."""
    models = (ModelEntry("tiny", 0, 1, 4096, tasks=("embed", "generate")),)
    service = GatewayService(generate, embed, list_models=lambda: models, is_ready=lambda: True)
    key = new_key()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        key_file = Path(folder) / "keys"
        write_keys(key_file, [ApiKey("bench", hash_key(key))])
        app = WithPlainRoute(create_app(service, access=Access(KeyRing(key_file))))
        server = await serve_http(app, "127.0.0.1", 0)
        times: dict[str, list[float]] = {name: [] for name in REQUESTS}
        connection = await Connection.connect(server.url)
        try:
            for number in range(WARM_UP + requests):
                for name, (path, body) in REQUESTS.items():
                    answer = await connection.ask(_bytes(path, body, key))
                    assert answer.status == 200, (name, answer.raw)
                    if number >= WARM_UP:
                        times[name].append(1000 * (answer.ended_s - answer.began_s))
        finally:
            connection.close()
            await server.stop(drain_s=0)
    return times


def _bytes(path: str, body: dict[str, Any], key: str) -> bytes:
    document = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-length: {len(document)}\r\n"
    )
    return head.encode() + b"content-type: application/json\r\n\r\n" + document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="how many of each surface are measured")
    requests: int = parser.parse_args().requests
    times = uvloop.run(measure(requests))
    plain_ms = statistics.median(times[PLAIN])
    table = Table("Surface", "Median", "p90", "p99", "Added", f"Under {AIM_MS:.0f} ms")
    for name, found in times.items():
        cuts = statistics.quantiles(found, n=100)
        added_ms = cuts[49] - plain_ms
        met = "" if name == PLAIN else ("met" if added_ms < AIM_MS else "missed")
        table.add_row(name, *(f"{cuts[at]:.2f} ms" for at in (49, 89, 98)), f"{added_ms:.2f} ms", met)
    Console().print(table)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    Console().print(f"{requests} requests each, in turns, client and server in one process, load {load}.")


if __name__ == "__main__":
    main()
