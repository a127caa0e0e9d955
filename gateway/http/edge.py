"""Wraps the whole application: who may ask, request ids, callers, the last resort for errors.

Pure ASGI. Knows nothing of surfaces; how an error looks is handed in.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.http.access import Access, RateLimited, Unauthorized
from gateway.http.failures import Failure, describe, failure
from gateway.http.proxies import Proxies
from gateway.http.uploads import Uploads
from gateway.http.web_pages import ForeignHost, ForeignPage, NotJson, WebPages
from gateway.interface import Caller, Receipts

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = b"x-request-id"
ANTHROPIC_ID_HEADER = b"request-id"
"""Where Anthropic's clients look for the same."""

WAIT_HEADER = b"x-p2pnet-wait-s"
"""How long the client is ready to wait for a worker, in seconds."""

RECEIPT_HEADER = b"x-p2pnet-receipt"
"""Whether the client wants the workers' receipts for its answer: `yes`."""

AUDIT_HEADER = b"x-p2pnet-audit"
"""Whether another worker may be shown the request, to check the answer: not with `no`."""

MAX_WAIT_S = 600.0
"""As long as OpenAI's clients wait for anything."""

HEALTH_PATHS = frozenset({"/health", "/livez", "/readyz"})
"""Whatever watches a gateway may ask for these under any name."""

OPEN_PATHS = HEALTH_PATHS | {"/"}
"""What needs no key: they say that a gateway is there, and nothing of it."""

OPEN_FOLDER = "/static/"
"""The page's files need none either: they are the same on every gateway. What the page shows comes from elsewhere."""

_SECONDS = re.compile(rb"[0-9]{1,4}(\.[0-9]{1,3})?")
_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")

OpenReceipts = Callable[[str], Receipts]
"""Gathers receipts for a caller of this name."""

FailureResponse = Callable[[Failure, str], Response]
"""A failure as a response, on this path."""


class Edge:
    """Gives every request its id and its caller, and every response the id; no traceback leaves. `pages` says which web
    pages may ask; `uploads` counts the bodies that arrive."""

    def __init__(
        self,
        app: ASGIApp,
        make_id: Callable[[], str],
        failure_response: FailureResponse,
        access: Access,
        proxies: Proxies,
        pages: WebPages | None,
        uploads: Uploads,
        open_receipts: OpenReceipts = lambda caller: Receipts(),
    ) -> None:
        self._app = app
        self._make_id = make_id
        self._failure_response = failure_response
        self._access = access
        self._proxies = proxies
        self._pages = pages
        self._uploads = uploads
        self._open_receipts = open_receipts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, REQUEST_ID_HEADER)
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = self._make_id().encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        state["uploads"] = self._uploads
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                ids = ((name, request_id) for name in (REQUEST_ID_HEADER, ANTHROPIC_ID_HEADER))
                message["headers"] = [*message["headers"], *ids]
            await send(message)

        try:
            if self._pages is not None and scope["path"] not in HEALTH_PATHS:
                self._pages.check(scope["method"], scope["headers"])
            caller = self._caller(scope)
            state["caller"] = caller
            with self._access.admitted(caller) if scope["method"] == "POST" else nullcontext():
                await self._app(scope, receive, send_with_id)
        except (ForeignHost, ForeignPage, NotJson, Unauthorized, RateLimited) as error:
            await self._failure_response(describe(error), scope["path"])(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # went away while it sent its request: nobody is left to answer
        except Exception as error:
            log.error("request %s: unexpected error", request_id.decode(), exc_info=error)
            if not has_started:
                await self._failure_response(describe(error), scope["path"])(scope, receive, send_with_id)

    def _caller(self, scope: Scope) -> Caller:
        """Raises Unauthorized where a key is needed and none is given that is known."""
        headers = dict(scope["headers"])
        client = scope.get("client")
        address = self._proxies.caller_of(client[0], scope["headers"]) if client else "unknown"
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_FOLDER):
            return Caller(address)
        caller = self._access.identify(headers, address)
        receipts = self._open_receipts(caller.name) if headers.get(RECEIPT_HEADER) == b"yes" else None
        return replace(
            caller,
            wait_s=_wait_s(headers.get(WAIT_HEADER)),
            receipts=receipts,
            may_be_audited=headers.get(AUDIT_HEADER, b"").lower() != b"no",
        )


def http_failure(error: HTTPException, method: str, path: str) -> Failure:
    """What a client is told where the error is HTTP's own: no such route, wrong method, bad body."""
    if error.status_code == 404:
        return failure("unknown_url", f"Unknown URL: {method} {path}")
    if error.status_code == 405:
        return failure("method_not_allowed", f"{method} is not allowed on {path}.")
    code = {408: "request_timeout", 413: "request_too_large", 415: "unsupported_media_type"}.get(
        error.status_code, "invalid_request"
    )
    return failure(code, error.detail)


def _wait_s(header: bytes | None) -> float | None:
    """None where nothing useful is said."""
    if header is None or not _SECONDS.fullmatch(header):
        return None
    return min(MAX_WAIT_S, float(header))


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
