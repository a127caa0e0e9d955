"""Answers clients of HTTP/1.0, which know no chunks: what has no length ends with its connection (RFC 9112, 6.3).

nginx passes requests on in HTTP/1.0 unless it is told otherwise.
"""

from __future__ import annotations

import sys
from typing import Any

from starlette.types import ASGIApp, Message
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def unchunked(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """The application for this one request, whose answer uvicorn would otherwise send in chunks."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        has_length = True

        async def send_plain(message: Message) -> None:
            nonlocal has_length
            if message["type"] == "http.response.start":
                has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not has_length:
                # uvicorn counts what is left of the length: none is known before the end, and then it is what ends it
                cycle.chunked_encoding = False
                is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
                cycle.expected_content_length = len(message.get("body", b"")) if is_last else sys.maxsize
            await send(message)

        await app(scope, receive, send_plain)

    return answer
