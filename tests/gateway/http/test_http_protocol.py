"""Connections whose requests never get on, against a real server on loopback."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http import http_protocol
from gateway.http.connections import Connections
from gateway.http.http_protocol import GuardedProtocol
from gateway.http.server import HttpServer
from tests.gateway.fake_generate import FakeGenerate, Serve, answer


async def talk(server: HttpServer, data: bytes) -> bytes:
    """What comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(data)
        return await reader.read()
    finally:
        writer.close()


async def test_headers_that_never_end_are_refused(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    endless = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-more: and more\r\n" * 4000
    assert (await talk(server, endless)).startswith(b"HTTP/1.1 431 ")


async def test_a_head_that_comes_at_once_and_is_too_large_is_refused(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    whole = b"GET /health HTTP/1.1\r\nhost: x\r\n" + b"x-more: and more\r\n" * 4000 + b"\r\n"
    assert (await talk(server, whole)).startswith(b"HTTP/1.1 431 ")


async def test_one_header_that_never_ends_is_refused(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    assert (await talk(server, b"GET /health HTTP/1.1\r\nx: " + b"a" * 70_000)).startswith(b"HTTP/1.1 431 ")


async def test_many_headers_that_fit_are_served(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    fitting = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + b"x-more: and more\r\n" * 1000 + b"\r\n"
    assert (await talk(server, fitting)).startswith(b"HTTP/1.1 200 ")


async def test_a_body_that_is_said_to_be_too_large_is_refused_before_it_is_sent(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    head = b"POST /api/chat HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
    reply = await talk(server, head + b"content-length: 999999999\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_come_in_time_ends_the_connection(sent: bytes) -> None:
    """The timer is the event loop's own, so the loop here is one whose time a test moves."""
    loop = _Loop()
    transport = _Transport()
    protocol = _protocol(loop)
    protocol.connection_made(transport)  # type: ignore[arg-type]
    if sent:
        protocol.data_received(sent)
    assert loop.due_s == http_protocol.HEAD_TIMEOUT_S
    loop.fire()
    assert transport.is_closed
    assert b"".join(transport.written).startswith(b"HTTP/1.1 408 ")


class _Handle:
    def __init__(self, loop: _Loop) -> None:
        self._loop = loop

    def cancel(self) -> None:
        self._loop.call = None


class _Loop:
    """Remembers the last timer, and calls it when told."""

    def __init__(self) -> None:
        self.due_s = 0.0
        self.call: tuple[object, tuple[object, ...]] | None = None

    def call_later(self, delay_s: float, function: object, *arguments: object) -> _Handle:
        self.due_s = delay_s
        self.call = (function, arguments)
        return _Handle(self)

    def fire(self) -> None:
        assert self.call is not None
        function, arguments = self.call
        assert callable(function)
        function(*arguments)


class _Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def _protocol(loop: _Loop) -> GuardedProtocol:
    from uvicorn import Config
    from uvicorn.server import ServerState

    async def app(scope: object, receive: object, send: object) -> None: ...

    config = Config(app, lifespan="off", log_config=None)
    config.load()
    return GuardedProtocol(config, ServerState(), {}, loop, counted=Connections())  # type: ignore[arg-type]
