"""Serves the gateway's page: the files of `static/`, each with its security headers.

Knows nothing of what the page shows: the page asks the gateway's own API for that, as anybody may.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

FOLDER = Path(__file__).parents[1] / "static"
INDEX = "index.html"
STATIC_PATH = "/static/"

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ipynb": "application/x-ipynb+json",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
"""A file of another kind has no business there."""

SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
"""Nothing is loaded from elsewhere, nothing runs that is not one of these files, and nobody frames the page."""


@dataclass(frozen=True)
class StaticFile:
    body: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> StaticFile:
        body = path.read_bytes()
        return cls(body, MEDIA_TYPES[path.suffix], f'"{sha256(body).hexdigest()[:32]}"')


def read_files(folder: Path = FOLDER) -> Mapping[str, StaticFile]:
    """All files by name. They are read once: no request opens a file, so none can name any other."""
    return {path.name: StaticFile.read(path) for path in sorted(folder.iterdir())}


class ForBrowsers(APIRoute):
    """A route that only those who ask for HTML see. All others get the next route of the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and b"text/html" not in _accepted(scope):
            return Match.NONE, {}
        return super().matches(scope)


def page(files: Mapping[str, StaticFile]) -> APIRouter:
    """The routes. The page is at the root, where Ollama's clients look whether it runs: mount it before them."""
    routes = APIRouter(include_in_schema=False)

    async def index(request: Request) -> Response:
        return _reply(files[INDEX], request, {"vary": "accept"})

    async def static(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404)
        return _reply(files[name], request)

    routes.add_api_route("/", index, methods=["GET"], route_class_override=ForBrowsers)
    routes.add_api_route(STATIC_PATH + "{name}", static, methods=["GET"])
    return routes


def _reply(file: StaticFile, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """Asked for anew each time, and sent only when it has changed: a gateway that was updated shows its new page."""
    given = {**SECURITY_HEADERS, **(headers or {}), "etag": file.etag, "cache-control": "no-cache"}
    known = request.headers.get("if-none-match", "")
    if file.etag in [one.strip().removeprefix("W/") for one in known.split(",")]:
        return Response(status_code=304, headers=given)
    return Response(file.body, media_type=None, headers={**given, "content-type": file.media_type})


def _accepted(scope: Scope) -> bytes:
    return b",".join(value for name, value in scope["headers"] if name == b"accept")
