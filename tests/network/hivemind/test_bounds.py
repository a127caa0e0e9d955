"""What is done about a p2pd that has grown too far, too many connections, and circuits that nobody uses."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from p2pnet.config import NetworkConfig
from p2pnet.network.crowd import MAX_CONNECTIONS_PER_PEER, Connection
from p2pnet.network.hivemind.bounds import IDLE_CIRCUIT_S, MIN_LIFE_S, STRAINED, STRAINED_PAUSE_S, Bounds
from p2pnet.network.hivemind.returned_peers import ReturnedPeers
from tests.stories import peer

BOUND = 100
CROWDED = 50
CIRCUIT = f"/ip4/203.0.113.1/tcp/1/p2p/{peer('relay').peer_id}/p2p-circuit"


class Site:
    """Stands for p2pd, the streams and the connections at once."""

    def __init__(self) -> None:
        self.bytes = 0
        self.list: list[Connection] = []
        self.is_silent = False
        self.used_s: dict[str, float] = {}
        self.last_addresses: tuple[str, ...] = ()
        self.opened_to: set[str] = set()
        self.asked: list[str] = []
        self.connected: set[str] = set()
        part = cast(Any, self)
        config = NetworkConfig(Path("key"), max_p2pd_bytes=BOUND, max_connections=CROWDED)
        self.bounds = Bounds(part, part, part, ReturnedPeers(part), part, config)

    def memory_bytes(self) -> int:
        return self.bytes

    def look(self, connected: set[str]) -> None:
        """As the relay is told of it."""
        self.connected = connected

    def kill(self) -> None:
        self.asked.append("kill")

    async def connections(self) -> list[Connection]:
        if self.is_silent:
            raise TimeoutError
        return self.list

    def peers(self) -> set[str]:
        return self.opened_to

    def peers_opened_to(self) -> set[str]:
        return self.opened_to

    def last_used_s(self, peer_id: str) -> float:
        return self.used_s.get(peer_id, -1e9)

    async def hang_up(self, peer_id: str) -> None:
        self.asked.append(peer_id)


@pytest.fixture
def site() -> Site:
    return Site()


async def test_the_relay_is_told_who_is_connected(site: Site) -> None:
    site.list = [Connection("a", CIRCUIT), Connection("b", "/ip4/203.0.113.2/tcp/1")]
    await site.bounds.look(0)
    assert site.connected == {"a", "b"}


async def test_a_p2pd_over_its_bound_is_ended(site: Site) -> None:
    site.bytes = BOUND
    await site.bounds.look(0)
    assert site.asked == []
    site.bytes = BOUND + 1
    await site.bounds.look(1)
    assert site.asked == ["kill"]


async def test_it_is_not_ended_all_the_time(site: Site) -> None:
    """One that is over its bound again soon may have honest work: it is ended at twice as much, or later."""
    site.bytes = BOUND + 1
    await site.bounds.look(0)
    await site.bounds.look(MIN_LIFE_S)
    assert site.asked == ["kill"]
    await site.bounds.look(MIN_LIFE_S + 1)
    site.bytes = 2 * BOUND + 1
    await site.bounds.look(MIN_LIFE_S + 2)
    assert site.asked == ["kill"] * 3


async def test_a_p2pd_that_hangs_is_ended(site: Site) -> None:
    for answers in (False, False, True, False, False, False, False):
        site.is_silent = not answers
        with suppress(TimeoutError):
            await site.bounds.look(0)
    assert site.asked == ["kill"]


async def test_a_crowd_is_parted_from(site: Site) -> None:
    site.list = [Connection(f"stranger {number}", "/ip4/192.0.2.1/tcp/1") for number in range(CROWDED + 3)]
    site.opened_to = {f"stranger {CROWDED + 2}"}
    await site.bounds.look(0)
    assert site.asked == [f"stranger {CROWDED + back}" for back in (1, 0, -1)]


async def test_a_peer_with_many_connections_is_parted_from(site: Site) -> None:
    site.list = [Connection("stranger", "/ip4/192.0.2.1/tcp/1")] * (MAX_CONNECTIONS_PER_PEER + 1)
    await site.bounds.look(0)
    assert site.asked == ["stranger"]


async def test_a_circuit_without_streams_is_closed(site: Site) -> None:
    site.list = [Connection("gateway", CIRCUIT)]
    for now_s in (0, IDLE_CIRCUIT_S):
        await site.bounds.look(now_s)
    assert site.asked == []
    await site.bounds.look(IDLE_CIRCUIT_S + 1)
    assert site.asked == ["gateway"]


@pytest.mark.parametrize("use", ["lately", "now", "direct"])
async def test_one_that_is_in_use_is_not(site: Site, use: str) -> None:
    site.list = [Connection("gateway", CIRCUIT)]
    await site.bounds.look(0)
    if use == "lately":
        site.used_s["gateway"] = IDLE_CIRCUIT_S
    elif use == "now":
        site.opened_to = {"gateway"}
    else:
        site.list.append(Connection("gateway", "/ip4/192.0.2.1/tcp/1"))
    for now_s in (IDLE_CIRCUIT_S + 1, 2 * IDLE_CIRCUIT_S):
        await site.bounds.look(now_s)
    assert site.asked == []


async def test_a_large_p2pd_parts_from_those_it_has_no_stream_with(site: Site) -> None:
    """The last that came first, half of them at a time."""
    site.list = [Connection(f"peer {number}", "/ip4/192.0.2.1/tcp/1") for number in range(40)]
    site.opened_to = {"peer 39"}
    site.used_s = {"peer 38": 0}
    site.bytes = int(STRAINED * BOUND)
    await site.bounds.look(0)
    assert site.asked == []
    site.bytes += 1
    for now_s in (1, STRAINED_PAUSE_S):
        await site.bounds.look(now_s)
    assert site.asked == [f"peer {number}" for number in range(37, 18, -1)]
    site.list = site.list[:19]
    await site.bounds.look(1 + STRAINED_PAUSE_S)
    assert site.asked[19:] == [f"peer {number}" for number in range(18, 9, -1)]
