"""A server with OpenAI's API that answers at once, or a token every 40 ms: what workers lend in a benchmark.

Run as `python -m bench.harness.instant_upstream`; the benchmark does. Costs the machine as little as possible: what it
sends was made beforehand, and of a request it reads nothing but the model, the number of tokens and where it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from bench.harness import echo_models
from p2pnet.cli.lifecycle import Ready, run_service

HEAD = b"HTTP/1.1 200 OK\r\n"
EVENTS_HEAD = HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"data: [DONE]\n\n"
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready-file", type=Path, required=True)
    options = parser.parse_args()

    @asynccontextmanager
    async def service() -> AsyncIterator[Ready]:
        server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0)
        try:
            yield Ready("none: not a peer", (), f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.close()

    run_service(service, options.ready_file, "The upstream is ready.")


class _Connection(asyncio.Protocol):
    """Answers one request after another."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._pacing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._pacing is not None:
            self._pacing.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        length = int(found[1]) if (found := _LENGTH.search(head)) else 0
        if separator and len(body) >= length:
            self._received = body[length:]
            self._answer(head, body[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if head.startswith(b"GET /v1/models "):
            self._transport.write(_document(200, {"object": "list", "data": list(map(_model, MODELS))}))
        elif not head.startswith(b"POST /v1/chat/completions "):
            self._transport.write(_document(404, {"error": {"message": "not found"}}))
        elif (asked := _asked(body)) is None:
            self._transport.write(_document(400, {"error": {"message": "not JSON"}}))
        else:
            frames = _frames(asked["model"], asked.get("max_tokens") or asked.get("max_completion_tokens") or 1)
            if asked["model"] == echo_models.PACED:
                self._pacing = asyncio.get_running_loop().create_task(self._pace(frames))
            else:
                self._transport.write(EVENTS_HEAD + b"".join(frames))

    async def _pace(self, frames: Iterable[bytes]) -> None:
        assert self._transport is not None
        self._transport.write(EVENTS_HEAD)
        for frame in frames:
            await asyncio.sleep(echo_models.PACE_S)
            self._transport.write(frame)


MODELS = (echo_models.INSTANT, echo_models.PACED)


def _model(name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": 1,
        "owned_by": "vllm",
        "max_model_len": echo_models.CONTEXT_LENGTH,
    }


def _asked(body: bytes) -> dict[str, Any] | None:
    """None of what is no JSON: workers try so whether there is such a route."""
    try:
        asked: dict[str, Any] = json.loads(body)
        return asked
    except ValueError:
        return None


def _document(status: int, value: object) -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} .\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@lru_cache
def _frames(model: str, tokens: int) -> list[bytes]:
    """A whole answer as chunks of HTTP, one a token, and one for its end."""
    deltas = [_event(model, {"content": text}, None) for text in echo_models.texts_of(tokens)]
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    end = _event(model, {}, "length") + _event(model, None, None, usage) + END
    return [*map(_chunk, deltas), _chunk(end) + b"0\r\n\r\n"]


def _event(model: str, delta: dict[str, str] | None, reason: str | None, usage: object = None) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    event = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": choices}
    return b"data: " + json.dumps(event | ({"usage": usage} if usage else {}), separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


if __name__ == "__main__":
    main()
