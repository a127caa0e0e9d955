"""Connections to the gateway that ask for nothing shut nobody out, from the same address or from another one."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import pytest

from bench.harness.attacks import idle_http
from bench.harness.siege import Besieged, assert_held, siege
from tests.depth import scaled
from tests.requirements import unavailable

SECONDS = scaled(ci=4.0, deep=30.0)
CONNECTIONS = scaled(ci=2500, deep=6000)
"""More than one caller may have, and than the open files that a process has unless it asks for more."""

USUAL_FILES = 1024


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * CONNECTIONS:
        unavailable(f"{2 * CONNECTIONS} open files are not allowed here")
    with may_open(USUAL_FILES):
        made = siege(workers=1)
        running = made.__enter__()
    try:
        with may_open(2 * CONNECTIONS):
            yield running
    finally:
        made.__exit__(None, None, None)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9"])
async def test_idle_connections_shut_nobody_out(besieged: Besieged, address: str) -> None:
    """Given honest requests and a stream under way, when thousands of connections ask for nothing, all is served."""
    async with httpx.AsyncClient(base_url=besieged.target.url) as http, http.stream("GET", "/p2pnet/v1/live") as stream:
        reading = asyncio.create_task(read(stream))
        report = await besieged.withstand(partial(idle_http.attack, connections=CONNECTIONS, address=address), SECONDS)
        assert_held(report)
        assert not reading.done(), "the stream is still under way"
        reading.cancel()


async def read(stream: httpx.Response) -> None:
    """Until it ends."""
    async for _ in stream.aiter_raw():
        pass


@contextmanager
def may_open(files: int) -> Iterator[None]:
    """So many open files, for this process and for those that it starts meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
