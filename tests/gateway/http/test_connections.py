"""Who may have how many connections, and which are cut to make room."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Sequence

import pytest

from gateway.http import http_protocol
from gateway.http.connections import FILES_PER_REQUEST, FILES_RESERVED, MAX_CONNECTIONS, Connections, connections_bound
from gateway.http.proxies import parse_proxies
from gateway.http.server import HttpServer
from p2pnet.messages import Accepted
from tests.gateway.fake_generate import FakeGenerate, Serve, answer

ANNA, BEN, CARL = "203.0.113.1", "203.0.113.2", "203.0.113.3"
PROXY = "10.0.0.1"


class One:
    """A connection that remembers whether it was cut."""

    def __init__(self) -> None:
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True


class House:
    """Connections under a test's hand."""

    def __init__(self, bound: int) -> None:
        self.connections = Connections(bound, parse_proxies([PROXY]))

    def come(self, address: str, count: int = 1, asking: bool = False) -> list[One]:
        """So many come; those that there is room for."""
        let_in = []
        for _ in range(count):
            one = One()
            if self.connections.open(one, address):
                let_in.append(one)
                if asking:
                    self.connections.note_asking(one)
        return let_in


def cut(connections: Sequence[One]) -> list[int]:
    """Which of them, by their order."""
    return [index for index, one in enumerate(connections) if one.is_cut]


def test_alone_a_caller_has_half_and_its_oldest_idle_ones_make_room() -> None:
    house = House(10)
    mine = house.come(ANNA, 8)
    assert len(mine) == 8
    assert cut(mine) == [0, 1, 2]
    assert len(house.connections) == 5


def test_those_with_an_answer_under_way_are_never_cut() -> None:
    house = House(10)
    streams = house.come(ANNA, 5, asking=True)
    assert house.come(ANNA) == []
    assert cut(streams) == []
    house.connections.note_idle(streams[3])
    assert len(house.come(ANNA)) == 1
    assert cut(streams) == [3]


def test_a_newcomer_has_room_beside_a_greedy_one() -> None:
    house = House(10)
    greedy = house.come(ANNA, 50)
    mine = house.come(BEN, 2)
    assert len(mine) == 2
    assert cut(mine) == []
    assert len(greedy) - len(cut(greedy)) == 5


def test_when_all_is_full_the_greediest_one_makes_room() -> None:
    house = House(12)
    proxys = house.come(PROXY, 7)
    anna, ben = house.come(ANNA, 3), house.come(BEN, 2)
    newcomer = house.come(CARL)
    assert len(newcomer) == 1
    assert (cut(proxys), cut(anna), cut(ben)) == ([], [0], [])


def test_nobody_is_cut_for_one_who_has_as_many() -> None:
    house = House(4)
    anna = house.come(ANNA, 1)
    house.come(PROXY, 2, asking=True)
    ben = house.come(BEN, 1, asking=True)
    assert house.come(BEN) == []
    assert cut(anna) == cut(ben) == []


def test_a_trusted_proxy_has_what_it_wants_and_is_cut_last() -> None:
    house = House(10)
    assert len(house.come(PROXY, 10, asking=True)) == 10
    assert house.come(PROXY) == []
    assert house.come(ANNA) == []
    house = House(10)
    proxys = house.come(PROXY, 10)
    assert len(house.come(ANNA)) == 1
    assert cut(proxys) == [0]


def test_the_addresses_of_one_home_are_one_caller() -> None:
    house = House(10)
    mine = [one for number in range(8) for one in house.come(f"2001:db8::{number:x}")]
    assert cut(mine) == [0, 1, 2]


def test_what_is_gone_leaves_nothing() -> None:
    house = House(10)
    for one in house.come(ANNA, 5, asking=True):
        house.connections.closed(one)
        house.connections.closed(one)
        house.connections.note_idle(one)
    assert len(house.connections) == 0
    assert len(house.come(ANNA, 5)) == 5


@pytest.mark.parametrize("files", [256, 1024, 20_000])
def test_the_bound_leaves_files_for_everything_else(files: int) -> None:
    if files > resource.getrlimit(resource.RLIMIT_NOFILE)[1]:
        pytest.skip("this process may not have so many open files")
    code = (
        "import resource; from gateway.http.connections import connections_bound;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (64, {files}));"
        "print(connections_bound(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [int(word) for word in said] == [min(MAX_CONNECTIONS, (files - FILES_RESERVED) // FILES_PER_REQUEST), files]
    assert connections_bound() >= 1


# ---- over real connections


async def test_a_stream_with_another_request_behind_it_ends_with_its_connection(serve: Serve) -> None:
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    server = await serve(generate)
    _, writer = await open_stream(server)
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
    await generate.is_waiting.wait()
    writer.transport.abort()
    await generate.has_closed.wait()
    assert generate.closed == 1


async def test_requests_that_are_sent_ahead_are_bounded(serve: Serve) -> None:
    """Given a stream under way, when thousands of requests come behind it, then the connection ends and so does it."""
    generate = FakeGenerate(Accepted(1), asyncio.Event())
    server = await serve(generate)
    reader, writer = await open_stream(server)
    await generate.is_waiting.wait()
    writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n" * (http_protocol.MAX_PIPELINED + 2))
    await generate.has_closed.wait()
    assert b" 400 " not in await reader.read()
    writer.close()


async def test_a_few_requests_that_are_sent_ahead_are_answered(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hi")))
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = b"GET /livez HTTP/1.1\r\nhost: x\r\n"
    writer.write((head + b"\r\n") * 15 + head + b"connection: close\r\n\r\n")
    assert (await reader.read()).count(b"HTTP/1.1 200 ") == 16
    writer.close()


async def open_stream(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = b'{"model": "tiny", "prompt": "a", "stream": true}'
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return reader, writer
