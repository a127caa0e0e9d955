"""What keeps a peer in the network ends with it alone, whatever goes wrong meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from p2pnet.config import NetworkConfig
from p2pnet.network.hivemind.maintenance import Maintenance
from p2pnet.network.hivemind.p2pd import P2pd
from p2pnet.network.hivemind.supervisor import Supervisor
from tests.stories import settle

SOON_S = 5.0


class Peer:
    """Stands for all parts of a peer. Its p2pd dies `deaths` times; each call raises what is in `raises` for it."""

    def __init__(self, deaths: int, **raises: list[BaseException]) -> None:
        self.deaths = deaths
        self.raises = raises
        self.called: list[str] = []
        self.last_addresses = ()
        self.is_over = asyncio.Event()

    async def revive(self) -> None:
        self._note("revive")
        if self.called.count("revive") > self.deaths:
            self.is_over.set()
            await asyncio.Event().wait()

    async def rejoin(self) -> bool:
        self._note("rejoin")
        return False

    async def addresses(self) -> tuple[str, ...]:
        return ()

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def wait(self) -> int:
        self._note("wait")
        return -9

    async def stop(self) -> None:
        self._note("stop")

    async def start(self, *_: object) -> None:
        self._note("start")

    async def serve_again(self) -> None:
        self._note("serve_again")

    def forget_all(self) -> None:
        self._note("forget_all")

    @property
    def p2p(self) -> None:
        return None

    def _note(self, call: str) -> None:
        self.called.append(call)
        if self.raises.get(call):
            raise self.raises[call].pop(0)


async def test_a_p2pd_that_dies_after_a_failed_rejoin_is_started_again_too() -> None:
    """Given a p2pd that has died, when rejoining raises what nobody thought of, then its next death is noticed as the
    first, and whoever waits for a change is told."""
    peer = Peer(deaths=2, rejoin=[RuntimeError("what nobody thought of"), ValueError("nor of this")])
    part = cast(Any, peer)
    maintenance = Maintenance(part, part, part, part, part, part)
    maintenance.start()
    async with asyncio.timeout(SOON_S):
        await maintenance.wait_changed()
        await peer.is_over.wait()
    await maintenance.stop()
    assert peer.called == ["revive", "rejoin", "revive", "rejoin", "revive"]


class Rejoining:
    """Stands for all parts of a peer whose initial peer swallows what it is sent. It counts how often its own addresses
    are looked at, in the turns that are taken in place of a second each."""

    def __init__(self) -> None:
        self.last_addresses = self.last = ()
        self.is_waiting = False
        self.looks_meanwhile = 0
        self.p2p = self

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def look(self) -> tuple[str, ...]:
        self.looks_meanwhile += self.is_waiting
        return ()

    async def connected(self) -> list[tuple[str, str]]:
        return []

    def note_live(self, connected: list[tuple[str, str]]) -> None:
        """Nobody is connected."""

    async def remember_neighbours(self) -> None:
        """There are none."""

    async def rejoin(self) -> bool:
        self.is_waiting = True
        await asyncio.Event().wait()
        return False

    async def revive(self) -> None:
        await asyncio.Event().wait()

    run = revive


async def test_an_initial_peer_that_swallows_packets_keeps_nobody_from_looking_after_addresses() -> None:
    peer = Rejoining()
    part = cast(Any, peer)
    maintenance = Maintenance(part, part, part, part, part, part, peer.sleep)
    maintenance.start()
    await settle(lambda: peer.looks_meanwhile >= 3)
    await maintenance.stop()


async def test_a_p2pd_is_started_until_it_does_start() -> None:
    """Whatever putting the dead one away raises, and starting the next."""
    peer = Peer(0, stop=[OSError("its socket is gone")], start=[AssertionError()], serve_again=[])
    part = cast(Any, peer)
    supervisor = Supervisor(part, part, part)
    async with asyncio.timeout(SOON_S):
        await supervisor.revive()
    assert peer.called == ["wait", "stop", "forget_all", "forget_all", "start", "start", "serve_again"]


async def test_a_protocol_may_come_to_be_served_while_a_new_p2pd_is_told_of_others() -> None:
    p2pd = Telling()
    await p2pd.serve("/first/1", nobody)
    await p2pd.serve_again()
    assert p2pd.told == ["/first/1", "/first/1", "/second/1"]


class Telling(P2pd):
    """Notes what it would tell p2pd; while it tells one for the second time, another is served."""

    def __init__(self) -> None:
        super().__init__(NetworkConfig(Path("key")), "peer")
        self.told: list[str] = []

    async def _register(self, protocol: str) -> None:
        self.told.append(protocol)
        if self.told == ["/first/1"] * 2:
            await self.serve("/second/1", nobody)


async def test_who_serves_a_protocol_anew_takes_the_place_of_who_did() -> None:
    """p2pd is told once: it takes none twice."""

    async def another(*_: object) -> None:
        """Serves nobody, either."""

    p2pd = Telling()
    await p2pd.serve("/other/1", nobody)
    await p2pd.serve("/other/1", another)
    assert (p2pd.told, p2pd._served["/other/1"]) == (["/other/1"], another)


async def nobody(*_: object) -> None:
    """Serves nobody."""
