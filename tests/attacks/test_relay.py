"""Attacks on the relay: its places, its memory. Honest workers are reached through it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.harness.attacks import circuits, reservations
from bench.harness.siege import Besieged, assert_held, siege
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.relay import OK, reserve
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig
from p2pnet.peer import Peer
from tests.depth import scaled

SECONDS = scaled(ci=4.0, deep=20.0)
IDENTITIES = scaled(ci=200, deep=1500)
PLACES_ONCE = 1024
"""Of the relay, for all addresses together, before they were counted by connections."""
CIRCUITS = 1000


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=1) as made:
        yield made


async def test_one_address_takes_many_places(besieged: Besieged) -> None:
    """Given honest requests, when one address takes reservations for hundreds of identities, half of which leave at
    once, then all aims are held."""
    attack = partial(reservations.attack, staying=IDENTITIES, passing=IDENTITIES)
    assert_held(await besieged.withstand(attack, SECONDS))


async def test_one_address_cannot_take_all_places(tmp_path: Path) -> None:
    """Given a relay, when one address takes more reservations than there were places, and leaves, then a newcomer gets
    one: the relay had those counted for an hour."""
    peer = await Peer.join(NetworkConfig(tmp_path / "relay.key", LOOPBACK_LISTEN, is_bootstrap=True))
    try:
        address = next(address for address in await peer.network.addresses() if "/tcp/" in address)
        for _ in range(PLACES_ONCE + 1):
            assert await reserved(address, "127.0.9.1") == OK
        assert await reserved(address, "127.0.9.2") == OK
    finally:
        await peer.close()


async def reserved(address: str, host: str) -> int:
    """What a new peer at this host is told when it asks for a reservation; then it leaves."""
    async with Stranger(host=host) as stranger:
        return await reserve(await stranger.dial(address))


async def test_idle_circuits_cost_little(besieged: Besieged) -> None:
    """Given honest requests, when strangers hold a thousand circuits, and send through one as fast as they can, then
    the relay stays small, and everybody is served."""
    assert_held(await besieged.withstand(partial(circuits.attack, idle=CIRCUITS), SECONDS))
