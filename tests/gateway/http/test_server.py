"""The HTTP server: addresses, ports that are taken, and how it stops."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from gateway.app import create_app
from gateway.http.server import serve_http
from p2pnet.errors import UsageError
from p2pnet.messages import Accepted
from tests.gateway.fake_generate import FakeGenerate, Serve, answer, service

STREAM = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": True}


async def test_port_0_is_a_free_port_and_the_url_names_it(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    assert server.port > 0
    assert server.url == f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient() as http:
        assert (await http.get(server.url + "/livez")).status_code == 200


async def test_a_wildcard_address_has_a_url_that_can_be_dialled() -> None:
    server = await serve_http(create_app(service(FakeGenerate())), "0.0.0.0", 0)
    assert server.url == f"http://127.0.0.1:{server.port}"
    await server.stop(drain_s=0)


async def test_a_port_in_use_is_one_sentence_and_a_fix(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    with pytest.raises(UsageError) as refused:
        await serve_http(create_app(service(FakeGenerate())), "127.0.0.1", server.port)
    assert str(server.port) in refused.value.message
    assert "--port" in refused.value.fix


@pytest.mark.parametrize(("host", "port"), [("no such host", 0), ("192.0.2.1", 0), ("127.0.0.1", 70_000)])
async def test_an_address_that_cannot_be_had(host: str, port: int) -> None:
    with pytest.raises(UsageError):
        await serve_http(create_app(service(FakeGenerate())), host, port)


async def test_stopping_lets_a_running_request_finish(serve: Serve) -> None:
    gate = asyncio.Event()
    accepted, *rest = answer("a")
    generate = FakeGenerate(accepted, gate, *rest)
    server = await serve(generate)
    async with httpx.AsyncClient() as http:
        request = asyncio.create_task(http.post(server.url + "/v1/chat/completions", json=STREAM))
        await generate.is_waiting.wait()
        stopping = asyncio.create_task(server.stop(drain_s=60))
        gate.set()
        response = await request
        await stopping
        assert response.text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError):
            await http.get(server.url + "/livez")


async def test_stopping_cuts_what_outlives_the_drain(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    server = await serve(generate)
    async with httpx.AsyncClient() as http:
        request = asyncio.create_task(http.post(server.url + "/v1/chat/completions", json=STREAM))
        await generate.is_waiting.wait()
        await server.stop(drain_s=0)
        assert generate.closed == 1
        with pytest.raises(httpx.RemoteProtocolError):
            await request
    assert all(record.exc_info is None for record in caplog.records)


async def test_a_dropped_connection_closes_its_generation(serve: Serve) -> None:
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    server = await serve(generate)
    async with httpx.AsyncClient() as http, http.stream("POST", server.url + "/v1/chat/completions", json=STREAM):
        await generate.is_waiting.wait()
        assert generate.closed == 0
    await generate.has_closed.wait()
    assert generate.closed == 1


async def test_a_connection_dropped_before_any_event_closes_its_generation(serve: Serve) -> None:
    generate = FakeGenerate(asyncio.Event())
    server = await serve(generate)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        body = b'{"model": "tiny", "prompt": "a"}'
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await generate.is_waiting.wait()
    await generate.has_closed.wait()
    assert generate.closed == 1
