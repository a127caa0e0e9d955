"""A peer whose machine went without a goodbye and is back elsewhere: over QUIC its old connection passes for alive."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from multiaddr import Multiaddr

from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.identity import Identity
from p2pnet.network.hivemind.daemon import Daemon
from p2pnet.network.hivemind.inbound_sockets import InboundSockets
from p2pnet.network.hivemind.network import HivemindNetwork
from p2pnet.network.hivemind.p2pd import attach
from p2pnet.network.interface import Stream
from p2pnet.peer import now_ms

PING_PROTOCOL = "/ipfs/ping/1.0.0"
"""p2pd answers it itself: what was sent comes back. https://github.com/libp2p/specs/blob/master/ping/ping.md"""
PING = bytes(range(32))

SOON_S = 5.0
"""An old connection passes for alive for 30 s."""


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[HivemindNetwork]:
    config = NetworkConfig(tmp_path / "here.key", LOOPBACK_LISTEN, is_client=True)
    identity = Identity.load_or_create(config.identity_file)
    network = await HivemindNetwork.start(config, identity, lambda _: False, now_ms)
    yield network
    await network.close()


@asynccontextmanager
async def p2pd(identity_file: Path) -> AsyncIterator[tuple[str, tuple[str, ...], int]]:
    """Another peer: its id, its addresses and its process."""
    peer_id = Identity.load_or_create(identity_file).peer_id
    async with AsyncExitStack() as stack:
        daemon = await Daemon.start(NetworkConfig(identity_file, LOOPBACK_LISTEN), LOOPBACK_LISTEN)
        stack.push_async_callback(daemon.stop)
        p2p = await attach(daemon, InboundSockets())
        stack.push_async_callback(p2p.shutdown)
        _, visible = await p2p._client.identify()
        yield peer_id, tuple(f"{Multiaddr(address.to_bytes())}/p2p/{peer_id}" for address in visible), daemon.pid


async def pinged(network: HivemindNetwork, peer_id: str, addresses: tuple[str, ...]) -> Stream:
    stream = await network.open_raw_stream(peer_id, PING_PROTOCOL, addresses)
    await stream.write(PING)
    answer = b""
    while len(answer) < len(PING) and (data := await stream.read()):
        answer += data
    assert answer == PING
    return stream


async def test_a_peer_that_is_back_elsewhere_is_dialled_anew_by_all_who_want_it(
    network: HivemindNetwork, tmp_path: Path
) -> None:
    identity_file = tmp_path / "there.key"
    async with p2pd(identity_file) as (peer_id, addresses, pid):
        (await pinged(network, peer_id, addresses)).close()
        os.kill(pid, signal.SIGKILL)
    async with p2pd(identity_file) as (same_peer_id, new_addresses, _):
        assert same_peer_id == peer_id
        async with asyncio.timeout(SOON_S):
            streams = await asyncio.gather(*(pinged(network, peer_id, new_addresses) for _ in range(20)))
        for stream in streams:
            stream.close()


async def test_nobody_who_is_in_mid_sentence_is_cut_off_for_new_addresses(
    network: HivemindNetwork, tmp_path: Path
) -> None:
    identity_file = tmp_path / "there.key"
    async with p2pd(identity_file) as (peer_id, addresses, _):
        elsewhere = tuple(address.replace("127.0.0.1", "127.0.0.2") for address in addresses)
        stream = await pinged(network, peer_id, addresses)
        (await pinged(network, peer_id, elsewhere)).close()
        await stream.write(PING)
        assert await stream.read()
        stream.close()
