"""One HTTP request to an ASGI application without a socket, the test being the client."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message


class AsgiCall:
    """`disconnect` is the client going away; while `may_send` is clear, the client reads nothing."""

    def __init__(self, app: ASGIApp, path: str, body: dict[str, Any], method: str = "POST") -> None:
        self.sent: list[Message] = []
        self.may_send = asyncio.Event()
        self.may_send.set()
        self.has_sent = asyncio.Event()
        self.is_blocked = asyncio.Event()
        self._is_gone = asyncio.Event()
        self._body: bytes | None = json.dumps(body).encode()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("gateway", 80),
            "client": ("client", 1),
        }
        self.task = asyncio.create_task(self._run(app, scope))

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message["type"] == "http.response.body"]

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False

    def disconnect(self) -> None:
        self._is_gone.set()

    async def until_sent(self, text: bytes) -> None:
        while text not in b"".join(self.bodies):
            self.has_sent.clear()
            await self.has_sent.wait()

    async def _run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._is_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if not self.may_send.is_set():
            self.is_blocked.set()
            await self.may_send.wait()
        self.sent.append(message)
        self.has_sent.set()
