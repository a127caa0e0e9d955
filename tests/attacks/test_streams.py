"""Attacks on p2pd through what it has no limits for itself: streams, connections, messages, memory."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from bench.harness.attacks import announced_messages, crowds, half_open_streams, pings
from bench.harness.chain_model import ChainBackend
from bench.harness.siege import MODEL, Besieged, assert_held, siege
from bench.harness.storm import wait_for_workers
from bench.harness.stranger.connection import Connection
from bench.harness.stranger.multistream import NotAgreed
from bench.harness.stranger.peer import PING, Stranger
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, WorkerConfig
from p2pnet.network.interface import Stream
from p2pnet.peer import Peer, now_ms
from p2pnet.wire.protocols import EMBED, GENERATE, STATUS
from p2pnet.worker.serve import Worker
from tests.depth import scaled

SECONDS = scaled(ci=6.0, deep=20.0)
FEW_FILES = 1024
"""What systems give to a program that does not ask for more."""
MAX_P2PD_BYTES = 80 << 20
"""Twice what one has at its start."""
PING_SECONDS = scaled(ci=10.0, deep=40.0)
"""It takes some seconds until that is as much as a p2pd may have."""
IDENTITIES = scaled(ci=300, deep=1500)
ROOM = 100
A_FEW = 8
SOON_S = 30.0
"""On a machine with other work."""
KEPT = "/stranger/kept/1"
KADEMLIA = "/ipfs/kad/1.0.0"
"""p2pd's own DHT, in which anyone could store provider records without end."""


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, hard))
    try:
        with siege(workers=2) as made:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # the attack needs some itself
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_half_open_streams(besieged: Besieged) -> None:
    """Given workers with few files, when three addresses hold 3,000 streams at each of them on which nothing is said,
    then others are served as before."""
    attack = partial(half_open_streams.attack, protocols=(GENERATE.name, STATUS.name, EMBED.name))
    assert_held(await besieged.withstand(attack, SECONDS))


async def test_announced_messages(besieged: Besieged) -> None:
    """When calls of the DHT announce 4 MiB each and never send them, then nobody keeps room for them."""
    assert_held(await besieged.withstand(announced_messages.attack, SECONDS))


async def test_crowds(besieged: Besieged) -> None:
    """When one address comes to the bootstrap with hundreds of identities, and to the workers with a hundred
    connections of one, again and again, then nobody else notices."""
    assert_held(await besieged.withstand(partial(crowds.attack, identities=IDENTITIES), SECONDS))


async def test_those_from_where_most_come_are_parted_from(tmp_path: Path) -> None:
    """Given a peer with room for a hundred connections, and one stranger that was there first, when two hundred come
    from another address, then half of those are parted from, and nobody else; and whoever has a dozen loses them."""
    async with joined(NetworkConfig(tmp_path / "key", LOOPBACK_LISTEN, max_connections=ROOM)) as peer:
        address = await tcp_address_of(peer)
        async with Stranger(host="127.0.9.2") as first, AsyncExitStack() as others:
            staying = await first.dial(address)
            crowd = []
            for _ in range(2 * ROOM):
                stranger = await others.enter_async_context(Stranger(host="127.0.9.1"))
                crowd.append(await stranger.dial(address))
            await wait_closed(crowd, len(crowd) - ROOM + 1)
            assert sum(one.is_open for one in crowd) >= ROOM - A_FEW
            last = await others.enter_async_context(Stranger(host="127.0.9.3"))
            many = [await last.dial(address) for _ in range(12)]
            await wait_closed(many, len(many))
            assert staying.is_open


async def test_pings(besieged: Besieged) -> None:
    """When strangers have p2pd hold streams of protocols that it answers by itself, then it parts from them before it
    is too large."""
    assert_held(await besieged.withstand(pings.attack, PING_SECONDS))


async def test_nobody_stores_provider_records(besieged: Besieged) -> None:
    """p2pd's own DHT is not there: 600,000 records in 7 s had nowhere else to go."""
    for peer in (besieged.target.bootstrap, *besieged.target.workers, besieged.target.gateway):
        async with Stranger() as stranger:
            connection = await stranger.dial(peer.tcp_address)
            with pytest.raises(NotAgreed):
                await connection.open(KADEMLIA)


async def test_a_p2pd_that_is_ended_for_its_memory_loses_no_request(besieged: Besieged, tmp_path: Path) -> None:
    """Given honest requests to three workers, when a stranger has the p2pd of one hold memory beyond its bound, then
    that is started again, and each request is answered, those that it had under way too."""
    config = NetworkConfig(
        tmp_path / "worker.key",
        LOOPBACK_LISTEN,
        initial_peers=besieged.target.bootstrap.addresses,
        max_p2pd_bytes=MAX_P2PD_BYTES,
    )
    async with joined(config) as peer:
        slow = ChainBackend(MODEL, delay_s=0.05)
        worker = await Worker.start(peer.network, peer.identity, [slow], now_ms, WorkerConfig(64, drain_s=1))
        try:
            await wait_for_workers(besieged.target.url, MODEL, 3)
            address = await tcp_address_of(peer)
            (before,) = own_p2pds()
            under_way = asyncio.create_task(besieged.ask_for(SECONDS, pace_per_s=20))
            await peer.network.handle(KEPT, keep)
            async with Stranger() as stranger:
                await hold_memory(await stranger.dial(address))
            honest = await under_way
            assert before not in own_p2pds()
            assert [one.problem for one in honest if one.took_s is None] == []
        finally:
            await worker.stop()


@asynccontextmanager
async def joined(config: NetworkConfig) -> AsyncIterator[Peer]:
    peer = await Peer.join(config)
    try:
        yield peer
    finally:
        await peer.close()


async def tcp_address_of(peer: Peer) -> str:
    return next(address for address in await peer.network.addresses() if "/tcp/" in address)


async def wait_closed(connections: Sequence[Connection], count: int) -> None:
    """Wait until so many of them have ended."""
    waiting = {asyncio.ensure_future(connection.wait_closed()) for connection in connections}
    async with asyncio.timeout(SOON_S):
        while len(waiting) > len(connections) - count:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def own_p2pds() -> list[int]:
    """Process ids of those that this process has started itself."""
    return [child.pid for child in psutil.Process().children() if child.name() == "p2pd"]


async def keep(stream: Stream) -> None:
    """Serve somebody for as long as they want."""
    while await stream.read():
        pass


async def hold_memory(connection: Connection) -> None:
    """Open streams that p2pd answers itself, until it is gone; and one of ours, as those have who are not parted from
    when p2pd is large."""
    with contextlib.suppress(OSError, EOFError):
        await connection.open(KEPT)
        while True:
            await connection.open(PING)
