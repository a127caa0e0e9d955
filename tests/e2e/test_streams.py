"""Streams over real daemons, many of them, on each transport: none is lost, and none is used up.

p2pd resets a stream when its own side closes first; over QUIC that lost the end of answers, and after some hundred
streams nobody could open another one. See `p2pnet/network/hivemind/p2pd_stream.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2pnet.config import NetworkConfig
from p2pnet.network.interface import Stream
from p2pnet.peer import Peer
from tests.depth import scaled

PROTOCOL = "/p2pnet/test/1"
ANSWER = b"x" * 3000
STREAMS = scaled(ci=600, deep=1200)
"""More than the few hundred after which streams ran out."""
AT_ONCE = 30

TRANSPORTS = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}


@dataclass
class Pair:
    client: Peer
    server: Peer
    addresses: tuple[str, ...]

    async def open(self) -> Stream:
        stream = await self.client.network.open_stream(self.server.identity.peer_id, PROTOCOL, self.addresses)
        await stream.write(b"hello")
        return stream


@asynccontextmanager
async def pair(folder: Path, transport: str) -> AsyncIterator[Pair]:
    listen = (TRANSPORTS[transport],)
    server = await Peer.join(NetworkConfig(folder / "server.key", listen, is_bootstrap=True))
    try:
        addresses = await server.network.addresses()
        client = await Peer.join(NetworkConfig(folder / "client.key", listen, initial_peers=addresses, is_client=True))
        try:
            yield Pair(client, server, addresses)
        finally:
            await client.close()
    finally:
        await server.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_every_answer_arrives_whole_however_many_there_are(tmp_path: Path, transport: str) -> None:
    async def answer(stream: Stream) -> None:
        await stream.read()
        await stream.write(ANSWER)

    async def ask(given: Pair) -> bytes:
        stream = await given.open()
        received = b""
        while len(received) < len(ANSWER) and (data := await stream.read()):
            received += data
        stream.close()
        return received

    async with pair(tmp_path, transport) as given:
        await given.server.network.handle(PROTOCOL, answer)
        for _ in range(STREAMS // AT_ONCE):
            assert await asyncio.gather(*(ask(given) for _ in range(AT_ONCE))) == [ANSWER] * AT_ONCE


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_cancelled_streams_stop_the_other_side_and_are_given_back(tmp_path: Path, transport: str) -> None:
    stopped = 0

    async def babble(stream: Stream) -> None:
        nonlocal stopped
        await stream.read()
        client_end = asyncio.create_task(stream.read())
        while not client_end.done():
            await stream.write(ANSWER)
            await asyncio.sleep(0)
        stopped += 1

    async def cancel(given: Pair) -> None:
        stream = await given.open()
        assert await stream.read()
        stream.close()

    async with pair(tmp_path, transport) as given:
        await given.server.network.handle(PROTOCOL, babble)
        for _ in range(STREAMS // AT_ONCE):
            await asyncio.gather(*(cancel(given) for _ in range(AT_ONCE)))
    assert stopped == STREAMS


async def test_nothing_is_missed_when_hivemind_reads_its_connection_to_p2pd_no_more(tmp_path: Path) -> None:
    """Its task ends of an answer that comes as its question is given up (Python 3.12), and of strangers' messages. We
    ask for nothing there: each question to p2pd, and each call of the DHT, has a socket of its own."""

    async def answer(stream: Stream) -> None:
        await stream.write(await stream.read())

    async with pair(tmp_path, "tcp") as given:
        for peer in (given.client, given.server):
            reading = peer.network._p2pd.p2p._client.control._read_task  # type: ignore[attr-defined]
            reading.cancel()
            await asyncio.wait([reading])
        await given.server.network.handle(PROTOCOL, answer)
        for _ in range(2):
            stream = await given.open()
            assert await stream.read() == b"hello"
            stream.close()
            await given.client.network.hang_up(given.server.identity.peer_id)
        assert (await given.client.network.meet(given.addresses[0])).clock_ahead_s is not None
        assert await given.server.network.addresses() == given.addresses
