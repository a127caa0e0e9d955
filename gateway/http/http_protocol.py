"""Limits what a client may do with one of uvicorn's connections: how long and large a head is, how long nobody reads.

A client that sends a byte of its headers now and then would otherwise hold a connection for ever (slow loris), and one
whose headers never end would fill the memory. Bodies have their own limits (`uploads.read_body`), and how many
connections there may be is counted in `connections.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.http.connections import Connections
from gateway.http.limits import WRITE_TIMEOUT_S
from gateway.http.unchunked import unchunked
from gateway.http.upgrades import head_without_offer, new_parser

HEAD_TIMEOUT_S = 20.0
"""From the connection, or the first byte of a further request, to the end of its headers. A browser that connects ahead
of time just connects again."""

MAX_HEAD_BYTES = 32 << 10
"""Of the request line and headers: four times what nginx allows. Cookies of other programs on the same host fit."""

MAX_PIPELINED = 16
"""Requests behind one that is being answered. Browsers and clients send none; 14,000 fit into one read of the socket,
and would wait as long as a stream lasts."""

ASK_WHETHER_READ_S = 0.5
"""How often a client that sends no more is asked whether it still reads, until its answer begins. One that is gone
holds a slot of a worker for so long."""

_STATUS = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, with a watch on each head while it is read, and on answers that nobody reads."""

    _head_bytes: int | None = None
    """What has come of the head that is being read; None while none is."""
    _timer: asyncio.TimerHandle | None = None
    _refused: int | None = None
    """The status for a head that has come at once, when the parser is told to stop at it."""
    _stalled: asyncio.TimerHandle | None = None
    _asking: asyncio.TimerHandle | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        counted: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._counted = counted
        self._answering: RequestResponseCycle | None = None
        """The request that is being answered. uvicorn knows the last one that came, and tells it alone when the
        connection is lost: an answer with another request behind it would never end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._counted.open(self, self.client[0] if self.client else ""):
            self._begin_head()
        else:
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._end_stall()
        if self._asking is not None:
            self._asking.cancel()
        self._counted.closed(self)
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        self._parse(data)
        if self._head_bytes is not None and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(431)

    def _parse(self, data: bytes) -> None:
        """As uvicorn does, but that an offer of another protocol is ignored."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as offer:
            head = head_without_offer(self.parser, self.url, self.headers)
            self.parser = new_parser(self)
            self._parse(head + data[offer.args[0] :])

    @property
    def _is_offered_another(self) -> bool:
        """Whether the head that is read offers another protocol, so that it is read again without. CONNECT asks for
        one, and is refused."""
        return bool(self.parser.should_upgrade())

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open. A client that sends no more right behind its request may still read (RFC
        9112, 9.6), or be gone; one that ends a connection on which its answer has begun is gone."""
        last = self.cycle
        if last is None or last.more_body or last.response_started or self._head_bytes is not None:
            return False
        last.keep_alive = False
        self._ask_whether_read()
        return True

    def _ask_whether_read(self) -> None:
        """Send what every client reads over (RFC 9110, 15.2): one that is gone resets the connection, which the next
        sending finds out."""
        answering = self._answering
        if self.transport.is_closing() or answering is None or answering.response_started:
            return
        if answering.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._asking = self.loop.call_later(ASK_WHETHER_READ_S, self._ask_whether_read)

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refused = 400
            raise ValueError("too many requests at once")
        super().on_message_begin()
        if self._head_bytes is None:
            self._begin_head()

    def on_headers_complete(self) -> None:
        if self.parser.get_method() == b"CONNECT":
            self._refused = 400
            raise ValueError("this is no proxy")
        if self._is_offered_another:
            return
        self._end_head()
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refused = 431
            raise ValueError("the head is too large")  # ends the parsing: this request must not begin
        if not self.url.startswith(b"/"):
            # A whole URL names the host that is meant, whatever else is said (RFC 9112, 3.2.2).
            self.headers.append((b"host", urlsplit(self.url).netloc))
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._is_offered_another:
            return
        super().on_message_complete()
        if not self.cycle.response_complete:
            self._counted.note_asking(self)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        if cycle.scope["http_version"] == "1.0":
            app = unchunked(app, cycle)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:
            self._counted.note_idle(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(WRITE_TIMEOUT_S, self.cut)

    def resume_writing(self) -> None:
        self._end_stall()
        super().resume_writing()

    def cut(self) -> None:
        """End the connection at once, whatever is still to be written."""
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self._refused is not None:
            self._refuse(self._refused)
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

    def _end_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _refuse(self, status: int) -> None:
        """Say why, unless an earlier request is being answered, and hang up."""
        self._end_head()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            line = b"HTTP/1.1 %d %s\r\n" % (status, _STATUS[status])
            self.transport.write(line + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
