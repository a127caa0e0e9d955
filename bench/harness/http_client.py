"""A client that costs the machine as little as possible: raw HTTP/1.1 on one connection, kept bytes, parsed afterwards.

Knows only what the benchmarks need of HTTP and of OpenAI's streams.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

FIRST_TOKEN = b'"content":"tok'
END_OF_CHUNKS = b"0\r\n\r\n"
_TOKEN = re.compile(rb"tok\d+ ")
END_OF_STREAM = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Answer:
    """One response as it came. Times are those of `time.perf_counter`; `packets` are when each piece came."""

    began_s: float
    first_token_s: float | None
    ended_s: float
    raw: bytes
    packets: tuple[tuple[float, bytes], ...] = ()

    @property
    def status(self) -> int:
        return int(self.raw[9:12])

    def token_times_s(self) -> list[float]:
        """When each token of an echo came."""
        return [at_s for at_s, data in self.packets for _ in _TOKEN.finditer(data)]

    def body(self) -> bytes:
        head, _, body = self.raw.partition(b"\r\n\r\n")
        return _dechunked(body) if b"chunked" in head.lower() else body


@dataclass(frozen=True)
class Stream:
    """A streamed chat, parsed. `is_complete`: it finished and said so; `events` are those that carry text."""

    text: str
    events: int
    is_complete: bool

    @classmethod
    def parse(cls, body: bytes) -> Stream:
        texts = []
        has_finished = False
        for line in body.split(b"\n\n"):
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:]).get("choices") or [{"delta": {}, "finish_reason": None}]
            texts.append(choices[0]["delta"].get("content") or "")
            has_finished = has_finished or choices[0]["finish_reason"] is not None
        return cls("".join(texts), sum(map(bool, texts)), has_finished and body.endswith(END_OF_STREAM))


class Connection(asyncio.Protocol):
    """One kept-alive connection; one request at a time. Make one with `connect`."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._times_s: list[float] = []
        self._began_s = 0.0
        self._first_token_s: float | None = None
        self._received_bytes = 0
        self._body_start: int | None = None
        self._body_bytes: int | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def connect(cls, url: str) -> Connection:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None, "a ready file's URL has both"
        _, self = await asyncio.get_running_loop().create_connection(cls, parts.hostname, parts.port)
        return self

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for its whole response. Raises ConnectionError when it is cut off."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._parts, self._times_s, self._received_bytes, self._first_token_s = [], [], 0, None
        self._body_start = self._body_bytes = None
        self._began_s = time.perf_counter()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the response was cut off: {error or 'closed'}"))

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        self._parts.append(data)
        self._times_s.append(now_s)
        self._received_bytes += len(data)
        if self._body_start is None:
            self._read_head()
        if self._first_token_s is None and FIRST_TOKEN in b"".join(self._parts):
            self._first_token_s = now_s
        if self._is_whole() and self._answer is not None and not self._answer.done():
            packets = tuple(zip(self._times_s, self._parts, strict=True))
            whole = Answer(self._began_s, self._first_token_s, now_s, b"".join(self._parts), packets)
            self._answer.set_result(whole)

    def _read_head(self) -> None:
        head, separator, _ = b"".join(self._parts).partition(b"\r\n\r\n")
        if separator:
            self._body_start = len(head) + len(separator)
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            self._body_bytes = int(lengths[0].split(b":")[1]) if lengths else None

    def _is_whole(self) -> bool:
        if self._body_start is None:
            return False
        body_bytes = self._received_bytes - self._body_start
        if self._body_bytes is not None:
            return body_bytes >= self._body_bytes
        tail = b"".join(
            self._parts[-len(END_OF_CHUNKS) :]
        )  # a chunk never ends so: what it carries ends in empty lines
        return body_bytes >= len(END_OF_CHUNKS) and tail.endswith(END_OF_CHUNKS)


def chat_request(model: str, max_tokens: int) -> bytes:
    """A streamed chat, as bytes to send."""
    document = {
        "model": model,
        "stream": True,
        "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": "Count, please."}],
    }
    body = json.dumps(document).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"content-type: application/json\r\n\r\n" + body


def models_request() -> bytes:
    return b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"


def workers_request() -> bytes:
    return b"GET /p2pnet/v1/workers HTTP/1.1\r\nhost: localhost\r\n\r\n"


def _dechunked(body: bytes) -> bytes:
    parts = []
    start = 0
    while (line_end := body.find(b"\r\n", start)) > 0 and (size := int(body[start:line_end], 16)):
        parts.append(body[line_end + 2 : line_end + 2 + size])
        start = line_end + 2 + size + 2
    return b"".join(parts)
