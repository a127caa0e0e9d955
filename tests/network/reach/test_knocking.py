"""Knocking at real sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from p2pnet.network.reach.knocking import knock, version_question


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that nobody listens on: it is bound, so that nobody else comes to."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


class Answering(asyncio.DatagramProtocol):
    """Answers questions for versions as a peer that speaks QUIC."""

    def __init__(self) -> None:
        self.questions: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.questions.append(data)
        self.transport.sendto(b"\x80\0\0\0\0", addr)


async def test_who_listens_for_tcp_is_there() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await knock([f"/ip4/127.0.0.1/tcp/{port}"])


async def test_who_speaks_quic_is_there() -> None:
    loop = asyncio.get_running_loop()
    transport, peer = await loop.create_datagram_endpoint(Answering, local_addr=("127.0.0.1", 0))
    try:
        assert await knock([f"/ip4/127.0.0.1/udp/{transport.get_extra_info('sockname')[1]}/quic-v1"])
        [question] = peer.questions
        assert (len(question), question[0], question[5], question[14]) == (1200, 0xC0, 8, 8)
    finally:
        transport.close()


async def test_where_nobody_is_nobody_answers(closed_port: int) -> None:
    assert not await knock([f"/ip4/127.0.0.1/tcp/{closed_port}", f"/ip4/127.0.0.1/udp/{closed_port}/quic-v1"])


async def test_one_that_answers_is_enough(closed_port: int) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await knock([f"/ip4/127.0.0.1/tcp/{closed_port}", f"/ip4/127.0.0.1/tcp/{port}"])


async def test_where_nobody_can_knock_somebody_may_be() -> None:
    assert await knock([])
    assert await knock(["/unix/tmp/p2pd.sock"])


def test_each_question_has_ids_of_its_own() -> None:
    assert len({version_question() for _ in range(100)}) == 100
