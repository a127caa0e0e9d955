"""The peers that the attacks are made with are real enough: p2pd takes them for libp2p peers, in both directions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.harness.stranger import dht
from bench.harness.stranger.connection import Stage
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import IDENTIFY, PING, Stranger
from p2pnet.client import status
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, WorkerConfig
from p2pnet.directory import model_key, worker_key
from p2pnet.errors import PeerUnreachable
from p2pnet.network.interface import Stream, key_id
from p2pnet.peer import Peer, now_ms
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.serve import Worker

ECHO = "/stranger/echo/1"


@pytest.fixture
async def bootstrap(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = await Peer.join(NetworkConfig(tmp_path / "bootstrap.key", LOOPBACK_LISTEN, is_bootstrap=True))
    yield peer
    await peer.close()


@pytest.fixture
async def stranger() -> AsyncIterator[Stranger]:
    async with Stranger() as stranger:
        yield stranger


async def tcp_address(peer: Peer) -> str:
    return next(address for address in await peer.network.addresses() if "/tcp/" in address)


async def test_its_calls_of_the_dht_are_answered(bootstrap: Peer, stranger: Stranger) -> None:
    connection = await stranger.dial(await tcp_address(bootstrap))
    assert connection.peer_id == bootstrap.network.peer_id
    pong = await dht.ping(connection)
    assert abs(pong.dht_time - time.time()) < 3
    assert pong.peer.node_id == dht.node_id_of(bootstrap.network.peer_id)
    assert len((await dht.find(connection, key_id("nothing"))).results) == 1


async def test_its_records_are_stored_as_any_others(bootstrap: Peer, stranger: Stranger) -> None:
    connection = await stranger.dial(await tcp_address(bootstrap))
    record = dht.capability(stranger.identity, (await stranger.listen(),), model="a-model")
    assert await dht.announce(connection, stranger.identity, record)
    (found,) = await bootstrap.directory.workers_of("a-model")
    assert found == record


async def test_a_stream_of_it_carries_megabytes_both_ways(bootstrap: Peer, stranger: Stranger) -> None:
    async def echo(stream: Stream) -> None:
        while data := await stream.read():
            await stream.write(data)

    await bootstrap.network.handle(ECHO, echo)
    stream = await stranger.open_stream(bootstrap.network.peer_id, ECHO, [await tcp_address(bootstrap)])
    said, heard = bytes(range(256)) * (3 << 12), b""
    sending = asyncio.create_task(stream.write(said))
    while len(heard) < len(said):
        heard += await stream.read()
    await sending
    assert heard == said
    stream.close()


async def test_a_worker_tells_it_its_status(tmp_path: Path, stranger: Stranger) -> None:
    peer = await Peer.join(NetworkConfig(tmp_path / "worker.key", LOOPBACK_LISTEN))
    worker = await Worker.start(
        peer.network, peer.identity, [EchoBackend(EchoOptions("echo"))], now_ms, WorkerConfig(drain_s=1)
    )
    try:
        answer = await status(stranger, peer.network.peer_id, [await tcp_address(peer)], timeout_s=5)
        assert answer.record_sequence >= 0
    finally:
        await worker.stop()
        await peer.close()


async def test_p2pd_dials_it_and_opens_streams(bootstrap: Peer, stranger: Stranger) -> None:
    async def greet(stream: Stream) -> None:
        await stream.write(b"hello " + await stream.read())

    stranger.serve_chunked(ECHO, greet)
    address = await stranger.listen()
    stream = await bootstrap.network.open_stream(stranger.peer_id, ECHO, [address])
    await stream.write(b"you")
    assert await stream.read() == b"hello you"
    stream.close()
    assert [connection.peer_id for connection in stranger.accepted] == [bootstrap.network.peer_id]


async def test_it_is_met_as_a_node_of_the_dht(bootstrap: Peer, stranger: Stranger) -> None:
    dht.take_part(stranger)
    await bootstrap.network.meet(await stranger.listen())
    assert bootstrap.network.neighbours == 1
    assert await bootstrap.network.fetch([worker_key(0), model_key("x")]) == {worker_key(0): [], model_key("x"): []}


@pytest.mark.parametrize("stage", [Stage.TCP, Stage.SECURED])
async def test_it_accepts_and_then_says_nothing(bootstrap: Peer, stranger: Stranger, stage: Stage) -> None:
    address = await stranger.listen(until=stage)
    with pytest.raises((PeerUnreachable, TimeoutError)):
        async with asyncio.timeout(1):
            await bootstrap.network.open_stream(stranger.peer_id, ECHO, [address])
    assert [connection.stage for connection in stranger.accepted] == [stage]


async def test_half_open_streams_and_protocols_that_nobody_speaks(bootstrap: Peer, stranger: Stranger) -> None:
    connection = await stranger.dial(await tcp_address(bootstrap))
    half_open = await connection.open_unnamed()
    with pytest.raises(NotAgreed):
        await connection.open("/nobody/speaks/this")
    ping = await connection.open(PING)
    await ping.write(bytes(32))
    assert await ping.readexactly(32) == bytes(32)
    await half_open.reset()


async def test_many_of_it_come_from_addresses_of_their_own(bootstrap: Peer) -> None:
    address = await tcp_address(bootstrap)
    for number in range(2, 5):
        async with Stranger(host=f"127.0.0.{number}") as stranger:
            connection = await stranger.dial(address)
            stream = await connection.open(IDENTIFY)
            assert await stream.read()
