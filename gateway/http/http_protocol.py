"""Limits how long and how large the head of a request may be, on uvicorn's connections.

A client that sends a byte of its headers now and then would otherwise hold a connection for ever (slow loris), and one
whose headers never end would fill the memory. Bodies have their own limits (`edge.read_body`).
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_TIMEOUT_S = 20.0
"""From the connection, or the first byte of a further request, to the end of its headers. A browser that connects ahead
of time just connects again."""

MAX_HEAD_BYTES = 32 << 10
"""Of the request line and headers: four times what nginx allows. Cookies of other programs on the same host fit."""

_STATUS = {408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, with a watch on each head while it is read."""

    _head_bytes: int | None = None
    """What has come of the head that is being read; None while none is."""
    _timer: asyncio.TimerHandle | None = None
    _is_head_too_large = False
    """Found out when all of it has come at once, before its bytes were looked at."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_bytes is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._is_head_too_large = True
            raise ValueError("the head is too large")  # ends the parsing: this request must not begin
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_head_too_large:
            self._refuse(431)
        else:
            super().send_400_response(msg)

    def _begin_head(self) -> None:
        self._head_bytes = 0
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self._refuse, 408)

    def _end_head(self) -> None:
        self._head_bytes = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        """Say why, unless an earlier request is being answered, and hang up."""
        self._end_head()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            line = b"HTTP/1.1 %d %s\r\n" % (status, _STATUS[status])
            self.transport.write(line + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
