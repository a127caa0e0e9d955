"""The outermost layer of the gateway's HTTP: request ids, capped bodies, the last resort for errors.

Pure ASGI. Knows nothing of surfaces; how an error looks is handed in.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.failures import Failure, describe, failure
from gateway.service import HttpLimits

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = b"x-request-id"
_REQUEST_ID = re.compile(rb"[\x20-\x7e]{1,128}")

FailureResponse = Callable[[Failure], Response]


class Edge:
    """Wraps the whole application: every response carries its request id, and no traceback leaves."""

    def __init__(self, app: ASGIApp, make_id: Callable[[], str], failure_response: FailureResponse) -> None:
        self._app = app
        self._make_id = make_id
        self._failure_response = failure_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _header(scope, REQUEST_ID_HEADER)
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = self._make_id().encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message["headers"], (REQUEST_ID_HEADER, request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            return  # went away while it sent its request: nobody is left to answer
        except Exception as error:
            log.error("request %s: unexpected error", request_id.decode(), exc_info=error)
            if not has_started:
                await self._failure_response(describe(error))(scope, receive, send_with_id)


async def read_body(request: Request, limits: HttpLimits) -> bytes:
    """The whole body of a request. Raises HTTPException 413 or 408 when it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                body += part
                if len(body) > limits.max_body_bytes:
                    raise HTTPException(413, f"The request's body is larger than {limits.max_body_bytes} bytes.")
    except TimeoutError as error:
        raise HTTPException(408, f"The request's body did not arrive within {limits.body_timeout_s:g} s.") from error
    return bytes(body)


def http_failure(error: HTTPException, method: str, path: str) -> Failure:
    """What a client is told where the error is HTTP's own: no such route, wrong method, bad body."""
    if error.status_code == 404:
        return failure("unknown_url", f"Unknown URL: {method} {path}")
    if error.status_code == 405:
        return failure("method_not_allowed", f"{method} is not allowed on {path}.")
    code = {408: "request_timeout", 413: "request_too_large"}.get(error.status_code, "invalid_request")
    return failure(code, error.detail)


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)
