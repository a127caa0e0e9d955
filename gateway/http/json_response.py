"""Makes JSON responses: documents, and errors with their status. Knows nothing of any dialect."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from gateway.http.failures import Failure

JSON = "application/json"

CHALLENGE = 'Bearer realm="p2pnet"'
"""How to come back after a 401, which has to say so (RFC 9110, 11.6.1; RFC 6750)."""


class EncodedJson(Response):
    """A document that its surface has encoded."""

    media_type = JSON


def error_response(failure: Failure, body: bytes) -> Response:
    """An error, as its surface has rendered it."""
    response = EncodedJson(body, failure.status)
    if failure.retry_after_s is not None:
        response.headers["retry-after"] = str(failure.retry_after_s)
    if failure.status == 401:
        response.headers["www-authenticate"] = CHALLENGE
    return response


def body_docs(example: dict[str, Any]) -> dict[str, Any]:
    """Documents a route's body with an example. Routes read their bodies themselves, so FastAPI cannot tell."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": {"type": "object"}, "example": example}}}}
