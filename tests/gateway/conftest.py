"""Runs the gateway's application on real sockets, and closes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gateway.app import create_app
from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer, serve_http
from tests.gateway.fake_generate import FakeGenerate, Serve, service
from tests.gateway.real_swarm import real_swarm


@pytest.fixture(scope="session")
def swarm_url() -> Iterator[str]:
    """Of the gateway of a real swarm, whose models answer by a script."""
    with real_swarm() as url:
        yield url


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """`await serve(generate, limits)` gives a running server on loopback."""
    running: list[HttpServer] = []

    async def start(generate: FakeGenerate, limits: HttpLimits | None = None) -> HttpServer:
        server = await serve_http(create_app(service(generate), limits), "127.0.0.1", 0)
        running.append(server)
        return server

    yield start
    for server in running:
        await server.stop(drain_s=0)
