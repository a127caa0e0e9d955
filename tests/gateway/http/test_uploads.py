"""Bodies that arrive, against a real server: which is refused when there is no more room, and which never is."""

from __future__ import annotations

import asyncio

from gateway.http.limits import HttpLimits
from gateway.http.server import HttpServer
from tests.gateway.fake_generate import FakeGenerate, Serve, answer

LIMITS = HttpLimits(max_arriving_bytes=400_000, body_timeout_s=60)
SMALL = b'{"model": "tiny", "prompt": "a"}'


class Sender:
    """One request whose body comes piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def begin(cls, server: HttpServer, length: int) -> Sender:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % length)
        writer.write(b"expect: 100-continue\r\n\r\n")
        await reader.readuntil(b"100 Continue\r\n\r\n")  # it is being read from here on
        return cls(reader, writer)

    async def send(self, body: bytes) -> None:
        self._writer.write(body)
        await self._writer.drain()

    async def status(self) -> int:
        head = await self._reader.readuntil(b"\r\n\r\n")
        self._writer.close()
        return int(head[9:12])


async def test_the_largest_goes_for_what_comes_and_a_small_one_is_always_served(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")), LIMITS)
    large = await Sender.begin(server, 250_000)
    small = await Sender.begin(server, len(SMALL))
    await large.send(b" " * 199_000)
    other = await Sender.begin(server, 180_000)
    sending = asyncio.create_task(other.send(b" " * 100_000))
    assert await large.status() == 429
    await sending
    await small.send(SMALL)
    assert await small.status() == 200
    await other.send(SMALL.rjust(80_000))
    assert await other.status() == 200


async def test_room_is_given_back_when_a_body_is_there_or_its_client_is_gone(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")), LIMITS)
    for _ in range(5):
        gone = await Sender.begin(server, 200_000)
        await gone.send(b" " * 150_000)
        gone._writer.transport.abort()
        whole = await Sender.begin(server, 150_000)
        await whole.send(SMALL.rjust(150_000))
        assert await whole.status() == 200
