"""Runs the gateway's application on a socket, inside the caller's event loop. Knows nothing of what it serves.

Signals are the caller's business. The socket is bound first, so that a port in use is a clear error and port 0 works.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import socket
from collections.abc import Generator
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.http.connections import Connections, connections_bound
from gateway.http.http_protocol import GuardedProtocol
from gateway.http.proxies import Proxies
from p2pnet.errors import UsageError

KEEP_ALIVE_CONNECTION_S = 75
"""Longer than what clients and proxies keep idle connections (httpx 5 s, aiohttp 15 s, load balancers 60 s), so that
they close first: a server that closes while a request is on its way loses that request."""

LISTEN_BACKLOG = 2048
"""Connections that may wait to be accepted; the kernel lowers it to its own limit."""

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that one listens on but does not dial, and what reaches them from this machine."""


class HttpServer:
    """A running HTTP server. `url` is its base URL, with the port that it really has."""

    def __init__(self, app: ASGIApp, listener: socket.socket, connections: Connections) -> None:
        host, self.port = listener.getsockname()[:2]
        host = WILDCARDS.get(host, host)
        self.url = f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"
        self._listener = listener
        self._is_stopping = False
        self._server = _Server(_config(self._cut_quietly, connections))
        self._app = app
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="gateway-http")
        started = asyncio.create_task(self._server.has_started.wait())
        await asyncio.wait((self._task, started), return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            self._task.result()

    async def stop(self, drain_s: float) -> None:
        """Take no new requests, let running ones finish for up to `drain_s`, then cancel those that are left."""
        if self._task is None:
            return
        self._is_stopping = True
        self._server.config.timeout_graceful_shutdown = math.ceil(drain_s)
        self._server.should_exit = True
        await self._task
        left = list(self._server.server_state.tasks)
        if left:
            await asyncio.wait(left)
        self._task = None

    async def _cut_quietly(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A request that outlives the drain is cancelled on purpose: no error to report. Its connection is closed in
        the middle of the response, which no client takes for the end."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise


async def serve_http(app: ASGIApp, host: str, port: int, proxies: Proxies | None = None) -> HttpServer:
    """Serve `app` until `stop`, with as many open files as this process may have. Port 0 takes any free port. Raises
    UsageError when the address cannot be had."""
    server = HttpServer(app, _bind(host, port), Connections(connections_bound(), proxies))
    await server.start()
    return server


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it has started and leaves signals alone."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _config(app: ASGIApp, connections: Connections) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",  # the application owns nothing to start; a failing lifespan would exit the process
        ws="none",
        http=partial(GuardedProtocol, counted=connections),  # type: ignore[arg-type]  # called, and nothing else
        interface="asgi3",
        log_config=None,  # logging is the command's business
        access_log=False,
        proxy_headers=False,  # whom to believe is the edge's business (gateway.http.proxies)
        server_header=False,
        backlog=LISTEN_BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_CONNECTION_S,
    )


def _bind(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"There is no port {port}.", "Pass a --port from 0 to 65535.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(f"The host {host!r} is not an address of this machine.", "Pass another --host.") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise _bind_error(host, port, error) from error
    listener.setblocking(False)
    return listener


def _bind_error(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"Port {port} on {host} is already in use.", "Pass another --port, or --port 0 for any free one."
        )
    if error.errno == errno.EACCES:
        return UsageError(f"Port {port} on {host} needs more rights.", "Pass a --port above 1023.")
    return UsageError(f"Cannot listen on {host}, port {port}: {error.strerror}.", "Pass another --host or --port.")
