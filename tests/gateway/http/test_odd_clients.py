"""Clients that speak HTTP in rarer ways, against a real server on loopback: they are answered all the same."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from typing import Any

import httpx
import pytest

from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer
from tests.gateway.fake_generate import FakeGenerate, Serve, answer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/v1/responses": {"model": "tiny", "input": "hi"},
    "/api/chat": {**CHAT, "stream": False},
}
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


async def talk(server: HttpServer, *parts: bytes, half_closes: bool = False) -> bytes:
    """What comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if half_closes:
            writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


def post(path: str, body: dict[str, Any], head: bytes = b"", version: bytes = b"1.1") -> bytes:
    data = json.dumps(body).encode()
    return (
        b"POST %s HTTP/%s\r\nhost: localhost\r\ncontent-type: application/json\r\n" % (path.encode(), version)
        + head
        + b"content-length: %d\r\n\r\n" % len(data)
        + data
    )


def chunked(path: str, body: dict[str, Any], head: bytes) -> bytes:
    data = json.dumps(body).encode()
    lines = b"POST %s HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n" % path.encode()
    return lines + head + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


# ---- offers of another protocol

LAST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("write", [post, chunked])
@pytest.mark.parametrize("path", PATHS)
async def test_an_offer_to_upgrade_is_ignored_and_the_request_served(serve: Serve, path: str, write: Any) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    reply = await talk(server, write(path, PATHS[path], OFFER) * 2 + LAST)
    assert reply.count(b"HTTP/1.1 200 OK") == 3
    assert reply.count(b"Hi") == 2
    assert b"upgrade" not in reply.lower()


async def test_an_offer_that_comes_byte_by_byte_is_ignored_too(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    whole = post("/v1/chat/completions", CHAT, b"connection: close, Upgrade\r\nupgrade: h2c\r\n")
    reply = await talk(server, *(whole[i : i + 1] for i in range(len(whole))))
    assert reply.startswith(b"HTTP/1.1 200 OK") and b"Hi" in reply


async def test_an_offer_of_a_websocket_is_ignored(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    offer = (
        b"upgrade: websocket\r\nconnection: upgrade, close\r\nsec-websocket-key: eA==\r\nsec-websocket-version: 13\r\n"
    )
    reply = await talk(server, b"GET /livez HTTP/1.1\r\nhost: localhost\r\n" + offer + b"\r\n")
    assert reply.startswith(b"HTTP/1.1 200 OK")


async def test_a_head_with_an_offer_may_not_be_larger_than_others(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    large = OFFER + b"x-more: and more\r\n" * 4000
    assert (await talk(server, post("/v1/responses", {}, large))).startswith(b"HTTP/1.1 431 ")


async def test_connect_is_refused(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    reply = await talk(server, b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 400 ")


# ---- HTTP/1.0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_stream", [False, True])
async def test_http_1_0_is_answered_without_chunks(serve: Serve, path: str, is_stream: bool) -> None:
    server = await serve(FakeGenerate(*answer("Hi", " there")))
    reply = await talk(server, post(path, {**PATHS[path], "stream": is_stream}, version=b"1.0"))
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert (b"content-length" in head) is not is_stream
    events = [line.removeprefix("data: ") for line in body.decode().splitlines() if line[:6] in ("data: ", '{"mode')]
    assert all(event == "[DONE]" or json.loads(event) for event in events)
    assert b"there" in body


# ---- HEAD

GETS = (
    *("/", "/health", "/livez", "/readyz", "/v1/models", "/v1/models/tiny", "/v1/engines", "/v1/engines/tiny"),
    *("/api/version", "/api/tags", "/api/ps", "/openapi.json", "/copilot_internal/v2/token"),
)


@pytest.mark.parametrize("path", GETS)
async def test_head_is_get_without_a_body(serve: Serve, path: str) -> None:
    server = await serve(FakeGenerate())
    async with httpx.AsyncClient(base_url=server.url) as http:
        got, head = await http.get(path), await http.head(path)
        after = await http.get("/livez")  # on the same connection: no body was left in it
    assert (head.status_code, head.content, after.status_code) == (got.status_code, b"", 200) == (200, b"", 200)
    assert {name: head.headers[name] for name in ("content-type", "content-length")} == {
        name: got.headers[name] for name in ("content-type", "content-length")
    }


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/v1/chat/completions", 405), ("/v1/models/no", 404)])
async def test_head_of_what_is_not_there(serve: Serve, path: str, status: int) -> None:
    server = await serve(FakeGenerate())
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.head(path)).status_code == status


# ---- clients that send no more


@pytest.mark.parametrize("is_stream", [False, True])
async def test_who_half_closes_behind_the_request_gets_the_answer(serve: Serve, is_stream: bool) -> None:
    go_on = asyncio.Event()
    server = await serve(FakeGenerate(go_on, *answer("Hi")))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post("/v1/chat/completions", {**CHAT, "stream": is_stream}))
    writer.write_eof()
    asked = await reader.readuntil(b"\r\n\r\n")
    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"  # whether somebody reads; clients read over it
    go_on.set()
    reply = (await reader.read()).replace(asked, b"")
    writer.close()
    assert reply.startswith(b"HTTP/1.1 200 OK")
    assert b"Hi" in reply


async def test_who_half_closes_with_http_1_0_is_asked_nothing_and_gets_the_answer(serve: Serve) -> None:
    generate = FakeGenerate(*answer("Hi"))
    reply = await talk(
        await serve(generate), post("/v1/responses", PATHS["/v1/responses"], version=b"1.0"), half_closes=True
    )
    assert reply.startswith(b"HTTP/1.1 200 OK") and b"Hi" in reply


async def test_who_half_closes_in_the_middle_of_a_request_gets_none(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    assert await talk(server, post("/v1/chat/completions", CHAT)[:-5], half_closes=True) == b""


# ---- bodies

CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
    "GZIP": gzip.compress,
}


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
async def test_bodies_that_are_compressed_or_marked_are_read(serve: Serve, coding: str, mark: bytes) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    data = CODINGS[coding](mark + json.dumps(CHAT).encode())
    async with httpx.AsyncClient(base_url=server.url) as http:
        reply = await http.post("/v1/chat/completions", content=data, headers={"content-encoding": coding})
    assert reply.status_code == 200, reply.text


REFUSED = {
    "an unknown coding": ("br", b"x", 415),
    "two codings": ("gzip, gzip", b"x", 415),
    "not encoded": ("gzip", b"{}", 400),
    "cut off": ("gzip", gzip.compress(b"{}")[:-3], 400),
    "with more behind it": ("gzip", gzip.compress(b"{}") + b"more", 400),
    "too large": ("gzip", gzip.compress(b" " * 10_000), 413),
}


@pytest.mark.parametrize(("coding", "data", "status"), REFUSED.values(), ids=REFUSED)
async def test_bodies_that_cannot_be_read_are_refused(serve: Serve, coding: str, data: bytes, status: int) -> None:
    server = await serve(FakeGenerate(), HttpLimits(max_body_bytes=5000))
    async with httpx.AsyncClient(base_url=server.url) as http:
        reply = await http.post("/v1/chat/completions", content=data, headers={"content-encoding": coding})
    assert reply.status_code == status
    assert ("gzip" in reply.headers.get("accept-encoding", "")) is (status == 415)
    assert reply.json()["error"]["code"] == {415: "unsupported_media_type", 413: "request_too_large"}.get(
        status, "invalid_request"
    )
