"""Counts answered HTTP requests by surface and status, and says which surface a path belongs to.

Pure ASGI; what is done with the counts is handed in.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SURFACES = {
    "/v1/messages": "anthropic",
    "/v1/engines": "fauxpilot",
    "/copilot_internal/": "fauxpilot",
    "/v1/": "openai",
    "/api/": "ollama",
    "/p2pnet/": "p2pnet",
    "/.well-known/p2pnet": "p2pnet",
    "/metrics": "metrics",
    "/health": "health",
    "/livez": "health",
    "/readyz": "health",
}
"""By how a path begins, the first that fits. Paths are strangers' input, so all others are one."""

OTHER = "other"


class HttpCounts:
    """Wraps the whole application. `note` is told a surface and a status as soon as there is one."""

    def __init__(self, app: ASGIApp, note: Callable[[str, int], None]) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        surface = surface_of(scope["path"])

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._note(surface, message["status"])
            await send(message)

        await self._app(scope, receive, send_counted)


def surface_of(path: str) -> str:
    """One of the words of SURFACES, or OTHER."""
    return next((surface for begin, surface in SURFACES.items() if path.startswith(begin)), OTHER)
