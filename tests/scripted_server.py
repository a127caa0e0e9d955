"""An HTTP server that answers as it is told, byte for byte: for tests of whoever has to cope with other servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

TURNS_BEFORE_END = 50
"""Of the event loop: the end of a body comes later than its last bytes, as it may over a network."""


@dataclass(frozen=True)
class Reply:
    """`chunks` are written one by one; then the body ends, the connection is cut, or nothing more comes."""

    chunks: tuple[bytes, ...] = ()
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: Literal["end", "cut", "wait"] = "end"


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: object

    @property
    def json(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class ScriptedServer:
    """`replies` by path: the last one of a list is given again and again. Other paths are not found."""

    def __init__(self, replies: dict[str, list[Reply]]) -> None:
        self.replies = replies
        self.received: list[Received] = []
        self.waiting = asyncio.Event()
        """A reply has been written as far as it goes, and waits."""
        self.left = asyncio.Event()
        """A client went away from a reply that waits."""
        self.url = ""

    def asked(self, path: str) -> list[Received]:
        """The requests for a path that had JSON in them."""
        return [one for one in self.received if one.path == path and one.body[:1] == b"{" and len(one.body) > 1]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.received.append(Received(request.path, dict(request.headers), body, request.transport))
        replies = self.replies.get(request.path)
        if not replies:
            return web.json_response({"error": "not found"}, status=404)
        if request.method == "GET" and request.path.endswith("completions"):
            return web.json_response({"error": "use POST"}, status=405)
        return await self._answer(request, replies.pop(0) if len(replies) > 1 else replies[0])

    async def _answer(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        await response.prepare(request)
        for chunk in reply.chunks:
            await response.write(chunk)
        if reply.then == "wait":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        for _ in range(TURNS_BEFORE_END):
            await asyncio.sleep(0)
        if reply.then == "cut" and request.transport is not None:
            request.transport.close()
        return response


@contextlib.asynccontextmanager
async def serve_application(application: web.Application) -> AsyncIterator[str]:
    """Serve on a free port of loopback, and give the URL."""
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def scripted(replies: dict[str, Reply | list[Reply]]) -> AsyncIterator[ScriptedServer]:
    """A running server."""
    server = ScriptedServer({path: reply if isinstance(reply, list) else [reply] for path, reply in replies.items()})
    application = web.Application(client_max_size=1 << 24)
    application.router.add_route("*", "/{path:.*}", server.handle)
    async with serve_application(application) as url:
        server.url = url
        yield server


def json_reply(value: Any, status: int = 200) -> Reply:
    return Reply((json.dumps(value).encode(),), status)


def model_list(*models: dict[str, Any]) -> Reply:
    """As OpenAI's API lists models; vLLM's unless they say otherwise."""
    return json_reply(
        {"object": "list", "data": [{"object": "model", "owned_by": "vllm", **model} for model in models]}
    )


def sse(*events: Any) -> bytes:
    """Server-sent events. A string is an event's data, and bytes are sent as they are."""
    return b"".join(event if isinstance(event, bytes) else b"data: " + _data(event) + b"\n\n" for event in events)


def _data(event: Any) -> bytes:
    return (event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)).encode()


def ndjson(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
