"""Reads the bodies of requests: bounded in bytes and seconds, each by itself and all together.

Knows nothing of what is in them.
"""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.http.limits import HttpLimits
from gateway.shares import Shares
from p2pnet.errors import Busy


class Upload:
    """One body while it arrives. Its bytes count until `end`."""

    def __init__(self, arriving: Shares, caller: str) -> None:
        self._arriving = arriving
        self._caller = caller
        self._body = bytearray()

    def __len__(self) -> int:
        return len(self._body)

    def add(self, part: bytes) -> None:
        """Raises Busy."""
        if not self._arriving.has_room(self._caller, len(part)):
            raise Busy(
                f"Bodies of {self._arriving.taken} bytes are just arriving here, {self._arriving.of(self._caller)} of "
                f"them from you, and {self._arriving.bound} may. Try again in a moment."
            )
        self._arriving.take(self._caller, len(part))
        self._body += part

    def end(self) -> bytes:
        self._arriving.give_back(self._caller, len(self._body))
        body, self._body = bytes(self._body), bytearray()
        return body


async def read_body(request: Request, limits: HttpLimits) -> bytes:
    """The whole body of a request. Raises HTTPException 413 or 408 when it is too large or too slow, and Busy when too
    much is arriving."""
    too_large = HTTPException(413, f"The request's body is larger than {limits.max_body_bytes} bytes.")
    # One that says so itself is not waited for: a client that expects a 100 before it sends gets the 413 instead.
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.max_body_bytes:
        raise too_large
    upload = Upload(request.state.arriving, request.state.caller.name)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            async for part in request.stream():
                upload.add(part)
                if len(upload) > limits.max_body_bytes:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"The request's body did not arrive within {limits.body_timeout_s:g} s.") from error
    finally:
        body = upload.end()
    return body
