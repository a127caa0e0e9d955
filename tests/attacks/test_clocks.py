"""Clocks that run off in mid-life, and peers that lie about theirs, with real daemons."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.gateway import Gateway
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.errors import JoinError
from p2pnet.network.hivemind.network import HivemindNetwork
from p2pnet.peer import Peer, now_ms
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.serve import Worker
from tests.stories import settle


class Clock:
    """The clock of one machine, which can be set."""

    def __init__(self) -> None:
        self.off_s = 0.0

    def __call__(self) -> int:
        return now_ms() + round(self.off_s * 1000)


class Site:
    """Four bootstraps, and a peer that has joined through all of them, each with a clock of its own."""

    def __init__(self, others: list[Clock], clock: Clock, peer: Peer) -> None:
        self.others = others
        self.clock = clock
        self.peer = peer

    async def look(self) -> None:
        """What is done every 20 s."""
        assert isinstance(self.peer.network, HivemindNetwork)
        await self.peer.network._clock_watch.look()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with AsyncExitStack() as closing:
        others: list[Clock] = []
        addresses: list[str] = []
        for number in range(4):
            others.append(Clock())
            config = NetworkConfig(tmp_path / f"{number}.key", LOOPBACK_LISTEN, initial_peers=tuple(addresses[:1]))
            peer = await Peer.join(config, others[-1])
            closing.push_async_callback(peer.close)
            addresses.append((await peer.network.addresses())[0])
        clock = Clock()
        peer = await Peer.join(
            NetworkConfig(tmp_path / "own.key", LOOPBACK_LISTEN, initial_peers=tuple(addresses)), clock
        )
        closing.push_async_callback(peer.close)
        yield Site(others, clock, peer)


async def look_for_ever(peer: Peer) -> None:
    while True:
        await peer.directory.workers()


@pytest.mark.parametrize("off_s", [3600.0, -3600.0])
@pytest.mark.parametrize("is_bootstrap", [False, True], ids=["a worker", "a bootstrap"])
async def test_who_joins_with_a_clock_that_is_off_is_refused(tmp_path: Path, is_bootstrap: bool, off_s: float) -> None:
    """Though another peer has asked it something meanwhile, so that it knows one: what it announced would be refused by
    all, and nobody would find it."""
    async with AsyncExitStack() as closing:
        there = await Peer.join(NetworkConfig(tmp_path / "there.key", LOOPBACK_LISTEN, is_bootstrap=True))
        closing.push_async_callback(there.close)
        initial = (await there.network.addresses())[:1]
        other = await Peer.join(NetworkConfig(tmp_path / "other.key", LOOPBACK_LISTEN, initial_peers=initial))
        closing.push_async_callback(other.close)
        looking = asyncio.create_task(look_for_ever(other))
        closing.callback(looking.cancel)
        clock = Clock()
        clock.off_s = off_s
        config = NetworkConfig(tmp_path / "off.key", LOOPBACK_LISTEN, initial_peers=initial, is_bootstrap=is_bootstrap)
        with pytest.raises(JoinError, match="clock differs by 3600 seconds") as refused:
            await Peer.join(config, clock)
        assert "Set the clock" in refused.value.fix


async def test_a_clock_that_runs_off_is_said_and_a_liar_changes_nothing(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a peer among others, when one of these lies about the time, then nothing is said; when the peer's own clock
    runs off, then the log says so and what to do, and the state is what a worker's panel and a gateway's overview
    show."""
    site.others[0].off_s = 500.0
    await site.look()
    assert not site.peer.network.clock.is_off
    assert caplog.messages == []
    site.clock.off_s = -30.0
    await site.look()
    state = site.peer.network.clock
    assert (state.is_off, state.peers) == (True, 4)
    assert state.ahead_s == pytest.approx(-30.0, abs=1.0)
    (warning,) = caplog.messages
    assert "30 s behind those of 4 peers" in warning and "timedatectl" in warning
    worker = await Worker.start(site.peer.network, site.peer.identity, [EchoBackend(EchoOptions("echo"))], site.clock)
    gateway = await Gateway.start(site.peer.network, site.peer.directory)
    try:
        assert worker.standing().clock == state
    finally:
        await gateway.stop(0)
        await worker.stop()


async def until_found(peer: Peer) -> None:
    async with asyncio.timeout(20):
        while not [record for record in await peer.directory.workers() if record.is_online]:
            """It asks other peers each time."""


@pytest.mark.parametrize("off_s", [3600.0, pytest.param(-3600.0, marks=pytest.mark.deep)])
async def test_a_worker_whose_clock_jumps_refuses_and_is_found_again_when_it_is_right(site: Site, off_s: float) -> None:
    looked = asyncio.Event()

    async def sleep(_: float) -> None:
        looked.clear()
        await looked.wait()

    owner, backend = Owner(sleep=sleep), EchoBackend(EchoOptions("echo"))
    worker = await Worker.start(site.peer.network, site.peer.identity, [backend], site.clock, owner=owner)
    try:
        await until_found(site.peer)
        site.clock.off_s = off_s
        await site.look()
        looked.set()
        await settle(lambda: owner.is_paused)
        assert not worker.status.is_serving and "clock is 3600 s" in owner.state
        site.clock.off_s = 0.0
        await site.look()
        looked.set()
        await settle(lambda: not owner.is_paused)
        await until_found(site.peer)
        assert worker.status.is_serving
    finally:
        await worker.stop()
