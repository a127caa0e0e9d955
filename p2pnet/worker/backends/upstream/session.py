"""Speaks HTTP to one upstream server: one pooled session, and limits on all that it sends.

Knows nothing of dialects. A server that misbehaves, or is away, is WorkerFailed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from p2pnet.config import AGENT
from p2pnet.errors import WorkerFailed
from p2pnet.worker.backends.upstream.address import Address
from p2pnet.worker.backends.upstream.dialect import UpstreamCall
from p2pnet.worker.backends.upstream.lines import LineSplitter
from p2pnet.worker.backends.upstream.refusals import refusal

logger = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_S = 5.0
"""The server is on this machine or beside it."""

SILENCE_S = 600.0
"""Between two bytes of a stream: twice what a gateway waits, so that a server that hangs holds no slot for ever."""

KEEP_ALIVE_S = 4.0
"""uvicorn closes idle connections after 5 s: a request must not go out on one that is just being closed."""

LIST_S = 10.0
"""For a list of models."""

MAX_LIST_BYTES = 4 << 20
"""Ollama shows a model with its licence and template: tens of kilobytes, a list has a hundred entries at most."""

MAX_REFUSAL_BYTES = 64 << 10

DRAIN_S = 0.1
"""After the end of an answer: for the last bytes of the body, with which the connection can be used again."""


NO_ANSWER = (aiohttp.ClientError, TimeoutError, OSError)
"""A server that is away, hangs, breaks off, or speaks no HTTP."""


class UpstreamSession:
    """Make it inside a running event loop, and close it there. The key goes into one header, and nowhere else."""

    def __init__(self, address: Address, key: str | None = None) -> None:
        self._address = address
        self._key = key
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(
                limit=0,  # the worker's own slots bound it
                keepalive_timeout=KEEP_ALIVE_S,
                socket_factory=no_delay_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # a small answer must not become a large one
            trust_env=False,  # prompts go to the server that the user named, through nobody's proxy
        )

    async def close(self) -> None:
        await self._session.close()

    async def fetch(self, path: str, posted: bytes | None = None) -> tuple[int, bytes]:
        """Make a small request, a GET or a POST of JSON, and return its status and body. Raises WorkerFailed when there
        is no answer."""
        try:
            async with asyncio.timeout(LIST_S), await self._send(path, posted) as response:
                return response.status, await _read(response, MAX_LIST_BYTES)
        except NO_ANSWER as error:
            raise _unreachable(error) from error

    async def open(self, call: UpstreamCall) -> UpstreamStream:
        """Post a request, and return its answer as soon as the server has said 200.

        Raises the error that its refusal stands for (see `refusals`), or WorkerFailed.
        """
        try:
            response = await self._send(call.path, msgspec.json.encode(call.body))
        except NO_ANSWER as error:
            raise _unreachable(error) from error
        if response.status == 200:
            return UpstreamStream(response)
        try:
            async with asyncio.timeout(LIST_S):
                body = await _read(response, MAX_REFUSAL_BYTES)
        except (*NO_ANSWER, WorkerFailed):
            body = b""
        finally:
            response.close()
        if response.status in (401, 403):
            logger.error("the upstream server at %s refuses our key (status %d)", self._address.root, response.status)
        raise refusal(response.status, body, self._key)

    async def ask(self, call: UpstreamCall, max_bytes: int) -> bytes:
        """Post a request, and return all of its answer. Raises as `open`, and WorkerFailed for one that is larger."""
        async with await self.open(call) as stream:
            return await stream.read(max_bytes)

    async def _send(self, path: str, posted: bytes | None) -> aiohttp.ClientResponse:
        """Send, and once more on another connection if the pool's had been closed a moment ago."""
        try:
            return await self._send_once(path, posted)
        except aiohttp.ServerDisconnectedError:
            return await self._send_once(path, posted)

    async def _send_once(self, path: str, posted: bytes | None) -> aiohttp.ClientResponse:
        return await self._session.request(
            "GET" if posted is None else "POST",
            self._address.url(path),
            data=posted,
            headers={} if posted is None else {"Content-Type": "application/json"},
            allow_redirects=False,
        )


class UpstreamStream:
    """The answer to one call. Leaving it closes the connection at once, unless the server has sent all of it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The lines of the body as they arrive. Raises WorkerFailed when it breaks off."""
        splitter = LineSplitter()
        try:
            async for data in self._response.content.iter_any():
                for line in splitter.feed(data):
                    yield line
        except NO_ANSWER as error:
            raise WorkerFailed("the upstream server broke off in mid-answer") from error
        for line in splitter.flush():
            yield line

    async def read(self, max_bytes: int) -> bytes:
        """All of the body. Raises WorkerFailed when it breaks off or is larger."""
        try:
            return await _read(self._response, max_bytes)
        except NO_ANSWER as error:
            raise WorkerFailed("the upstream server broke off in mid-answer") from error

    async def drain(self) -> None:
        """Let the body end after the last line that matters, so that its connection can be used again."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while not self._response.content.at_eof():
                    if len(await self._response.content.readany()) > MAX_REFUSAL_BYTES:
                        return
        except NO_ANSWER:
            self._response.close()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > max_bytes:
            raise WorkerFailed("the upstream server sent an answer that is too large")
    return bytes(body)


@asynccontextmanager
async def taken(asking: Coroutine[Any, Any, T], accept_s: float) -> AsyncIterator[asyncio.Future[T]]:
    """An answer to come, as soon as the server has had `accept_s` seconds to refuse. Raises what it refuses with.
    Whoever leaves before the answer is there gives it up."""
    answer = asyncio.ensure_future(asking)
    try:
        await asyncio.wait({answer}, timeout=accept_s)
        if answer.done():
            answer.result()
        yield answer
    finally:
        answer.cancel()
        await asyncio.wait({answer})


def no_delay_socket(address: Any) -> socket.socket:
    """A socket without Nagle's delay. A token is a small packet, and so is a request: neither waits for the other's
    acknowledgement."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def _unreachable(error: Exception) -> WorkerFailed:
    logger.debug("the upstream server gave no answer: %r", error)
    return WorkerFailed("the upstream server gave no answer")
