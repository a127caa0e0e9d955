"""A client of OpenAI's streamed chats that notes when each piece of an answer came, for hundreds of streams at once.

While streams run it only keeps bytes and times; what they say is read once a stream is over. Knows nothing of workers
or faults.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

END_OF_STREAM = "[DONE]"
EVENT = b"data: "
"""How each begins."""


@dataclass(frozen=True)
class ChatRequest:
    """A streamed chat of one message, whose answer has `tokens` tokens."""

    request_id: str
    model: str
    prompt: str
    tokens: int
    seed: int = 0
    temperature: float = 1.0

    def encode(self) -> bytes:
        document = {
            "model": self.model,
            "messages": [{"role": "user", "content": self.prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self.tokens,
            "ignore_eos": True,
            "seed": self.seed,
            "temperature": self.temperature,
        }
        body = json.dumps(document).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nx-request-id: {self.request_id}\r\n"
            f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Answered:
    """A stream that is over. Times are of `time.perf_counter`; `text_s` has one for each event that carried text.

    `is_complete`: it finished, said so, and the response ended as it should. `error` is the error event's, or, when the
    status is not 200, the body's.
    """

    request: ChatRequest
    began_s: float
    ended_s: float
    status: int
    headers: Mapping[str, str]
    text: str
    text_s: tuple[float, ...]
    finish_reason: str | None
    usage: Mapping[str, int] | None
    error: str | None
    is_complete: bool

    def gaps(self) -> Iterator[tuple[float, float]]:
        """(begin, length) of each silence between two pieces of text, in seconds."""
        for before_s, after_s in zip(self.text_s, self.text_s[1:], strict=False):
            yield before_s, after_s - before_s


class TimedStream(asyncio.Protocol):
    """One stream on a connection of its own. Make one with `open`."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._pieces: list[tuple[float, bytes]] = []
        self._began_s = 0.0
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        self._events = 0
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, url: str, request: ChatRequest) -> TimedStream:
        """Connect and send the request. Raises OSError when nobody listens."""
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None, "a ready file's URL has both"
        loop = asyncio.get_running_loop()
        transport, self = await loop.create_connection(lambda: cls(request), parts.hostname, parts.port)
        self._began_s = time.perf_counter()
        transport.write(request.encode())
        return self

    async def wait_begun(self) -> None:
        """Wait until the first bytes have come, or the connection is over."""
        await self._wait_for(lambda: bool(self._pieces))

    async def wait_events(self, count: int) -> None:
        """Wait until so many events have come, or the connection is over."""
        await self._wait_for(lambda: self._events >= count)

    async def finish(self) -> Answered:
        """Wait until the server closes the connection, then read what came."""
        await self._closed
        return read_response(self._request, self._began_s, self._pieces)

    def close(self) -> float:
        """Go away; returns when."""
        assert self._transport is not None
        self._transport.abort()
        return time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit from it

    def data_received(self, data: bytes) -> None:
        self._pieces.append((time.perf_counter(), data))
        self._events += data.count(EVENT)
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        self._news.set()

    async def _wait_for(self, is_there: Callable[[], bool]) -> None:
        while not (is_there() or self._closed.done()):
            self._news.clear()
            await self._news.wait()


async def ask(url: str, request: ChatRequest) -> Answered:
    """One stream, from its request to its end."""
    return await (await TimedStream.open(url, request)).finish()


class _Response:
    """What httptools calls back while it reads one response."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body: list[bytes] = []
        self.is_whole = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> bytes:
        """More of the response; returns what it adds to the body."""
        self.body = []
        self._parser.feed_data(data)
        return b"".join(self.body)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.is_whole = True


class _Events:
    """Puts server-sent events together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.text_s: list[float] = []
        self.finish_reason: str | None = None
        self.usage: Mapping[str, int] | None = None
        self.error: str | None = None
        self.is_done = False
        self._rest = b""

    def feed(self, body: bytes, now_s: float) -> None:
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            if event.startswith(EVENT):
                self._take(event.removeprefix(EVENT).decode(), now_s)

    def _take(self, data: str, now_s: float) -> None:
        assert not self.is_done, "something follows the end of the stream"
        if data == END_OF_STREAM:
            self.is_done = True
            return
        event = json.loads(data)
        self.error = event.get("error", {}).get("code") or self.error
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices", ()):
            if text := choice["delta"].get("content"):
                self.texts.append(text)
                self.text_s.append(now_s)
            self.finish_reason = choice["finish_reason"] or self.finish_reason


def read_response(request: ChatRequest, began_s: float, pieces: Sequence[tuple[float, bytes]]) -> Answered:
    """What came in these pieces, each with its time."""
    response, events, body = _Response(), _Events(), b""
    for now_s, data in pieces:
        added = response.feed(data)
        if response.status == 200:
            events.feed(added, now_s)
        else:
            body += added
    error = events.error if response.status == 200 else _code(body)
    return Answered(
        request=request,
        began_s=began_s,
        ended_s=pieces[-1][0] if pieces else began_s,
        status=response.status,
        headers=response.headers,
        text="".join(events.texts),
        text_s=tuple(events.text_s),
        finish_reason=events.finish_reason,
        usage=events.usage,
        error=error,
        is_complete=events.is_done and response.is_whole and events.finish_reason is not None and error is None,
    )


def _code(body: bytes) -> str:
    """The error code of a response that is no stream."""
    try:
        document: Any = json.loads(body)
        return str(document["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "no answer"
