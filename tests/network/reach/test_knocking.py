"""Knocking at real sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from p2pnet.network.reach.knocking import answering, knock, version_question
from tests.stories import peer


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
    transport, answers = await loop.create_datagram_endpoint(Answering, local_addr=("127.0.0.1", 0))
    try:
        assert await knock([f"/ip4/127.0.0.1/udp/{transport.get_extra_info('sockname')[1]}/quic-v1"])
        [question] = answers.questions
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


RELAYS = [peer("one relay").peer_id, peer("another relay").peer_id]
WORKER = peer("worker").peer_id


def circuit(relay: str, transport: str = "tcp/1") -> str:
    return f"/ip4/192.0.2.9/{transport}/p2p/{relay}/p2p-circuit/p2p/{WORKER}"


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ((True, None), [circuit(RELAYS[0]), circuit(RELAYS[0], "udp/1/quic-v1")]),
        ((None, True), [circuit(RELAYS[1])]),
        ((False, True), [circuit(RELAYS[1])]),
        ((False, False), []),
    ],
)
async def test_a_peer_is_dialled_through_the_first_relay_that_leads_to_it(
    says: tuple[bool | None, bool | None], expected: list[str]
) -> None:
    """Given two relays of which one may be gone and say nothing (None), nobody waits for that one, nor dials through
    it."""
    asked: list[str] = []
    gone: list[str] = []

    async def leads(address: str) -> bool:
        asked.append(address)
        said = next(each for relay, each in zip(RELAYS, says, strict=True) if relay in address)
        if said is None:
            try:
                await asyncio.Event().wait()
            finally:
                gone.append(address)
        return bool(said)

    addresses = [circuit(RELAYS[0]), circuit(RELAYS[1]), circuit(RELAYS[0], "udp/1/quic-v1")]
    assert list(await answering(addresses, leads)) == expected
    assert sorted(asked) == sorted(addresses[:2]), "each relay once"
    assert len(gone) == says.count(None), "and nobody is asked any more"


async def test_who_answers_directly_is_dialled_everywhere() -> None:
    async def leads(address: str) -> bool:
        raise AssertionError("no relay is asked")

    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        addresses = [f"/ip4/127.0.0.1/tcp/{port}/p2p/{WORKER}", circuit(RELAYS[0])]
        assert await answering(addresses, leads) == addresses
