"""Reads the bodies of requests: bounded in bytes and seconds, each by itself and all together.

When all together have no more room, the largest goes of whoever sends most: a small request is never refused because
somebody's large ones do not arrive. Knows nothing of what is in them.
"""

from __future__ import annotations

import asyncio
from codecs import BOM_UTF8

from starlette.exceptions import HTTPException
from starlette.requests import Request

from gateway.http.encodings import decoded, too_large
from gateway.http.limits import MAX_ARRIVING_BYTES, HttpLimits
from gateway.shares import Shares
from p2pnet.errors import Busy


class Upload:
    """One body while it arrives. `timeout` is what its reader waits in."""

    def __init__(self, caller: str, timeout: asyncio.Timeout) -> None:
        self.caller = caller
        self.body = bytearray()
        self.is_refused = False
        self._timeout = timeout

    def refuse(self) -> None:
        """Wake its reader: it is not to be waited for any longer."""
        self.is_refused = True
        self.body = bytearray()
        if not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())


class Uploads:
    """All bodies that are arriving."""

    def __init__(self, bound: int = MAX_ARRIVING_BYTES) -> None:
        self._shares = Shares(bound)
        self._uploads: dict[Upload, None] = {}

    def begin(self, upload: Upload) -> None:
        self._uploads[upload] = None

    def add(self, upload: Upload, part: bytes) -> None:
        """Raises Busy when it is the one that goes, now or since its last part."""
        while not upload.is_refused and not self._shares.has_room(upload.caller, len(part)):
            self._refuse_one(upload)
        if upload.is_refused:
            raise self.busy()
        self._shares.take(upload.caller, len(part))
        upload.body += part

    def end(self, upload: Upload) -> bytes:
        """All that has come of it. It may have ended before."""
        if upload not in self._uploads:
            return b""
        del self._uploads[upload]
        self._shares.give_back(upload.caller, len(upload.body))
        return bytes(upload.body)

    def busy(self) -> Busy:
        return Busy(
            f"Too many large requests are just arriving: {self._shares.bound} bytes of them may. Try again in a moment."
        )

    def _refuse_one(self, newcomer: Upload) -> None:
        """The largest of whoever has most, and of those of equal size the oldest."""
        largest = max(self._uploads, key=lambda upload: (self._shares.of(upload.caller), len(upload.body)))
        gone = largest if largest.body else newcomer
        self.end(gone)
        gone.refuse()


async def read_body(request: Request, limits: HttpLimits) -> bytes:
    """The whole body of a request, decoded. Raises HTTPException 413, 408, 415 or 400 when it is too large, too slow or
    encoded in a way that cannot be read, and Busy when too much is arriving."""
    refusal = too_large(limits.max_body_bytes)
    # One that says so itself is not waited for: a client that expects a 100 before it sends gets the 413 instead.
    said = request.headers.get("content-length", "")
    if said.isdecimal() and int(said) > limits.max_body_bytes:
        raise refusal
    uploads: Uploads = request.state.uploads
    timeout = asyncio.timeout(limits.body_timeout_s)
    upload = Upload(request.state.caller.name, timeout)
    uploads.begin(upload)
    try:
        async with timeout:
            async for part in request.stream():
                uploads.add(upload, part)
                if len(upload.body) > limits.max_body_bytes:
                    raise refusal
    except TimeoutError as error:
        if upload.is_refused:
            raise uploads.busy() from None
        raise HTTPException(408, f"The request's body did not arrive within {limits.body_timeout_s:g} s.") from error
    finally:
        body = uploads.end(upload)
    return decoded(body, request.headers.get("content-encoding", ""), limits.max_body_bytes).removeprefix(BOM_UTF8)
