"""Attacks on the relay: its places, its memory. Honest workers are reached through it meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bench.harness.attacks import circuits, reservations
from bench.harness.siege import Besieged, assert_held, siege
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.relay import OK, accept_circuits, open_circuit, reserve
from p2pnet.config import LOOPBACK_LISTEN, NetworkConfig, RelayLimits
from p2pnet.network.hivemind.p2pd_stream import READ_CHUNK_BYTES
from p2pnet.peer import Peer
from p2pnet.rate_limit import BURST_S
from tests.depth import scaled

SECONDS = scaled(ci=4.0, deep=20.0)
IDENTITIES = scaled(ci=200, deep=1500)
PLACES_ONCE = 1024
"""Of the relay, for all addresses together, before they were counted by connections."""
CIRCUITS = 1000
RATE = 200_000
FLOOD_S = 2.0


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


async def test_one_address_sends_no_more_than_its_rate(tmp_path: Path) -> None:
    """Given a relay with a rate, when a stranger sends through a circuit as fast as it can, then what the relay carries
    is what it may carry at once and the rate since then, and the stream is one packet ahead of that."""
    limits = RelayLimits(bytes_per_s_of_an_address=RATE)
    peer = await Peer.join(NetworkConfig(tmp_path / "relay.key", LOOPBACK_LISTEN, is_bootstrap=True, relay=limits))
    loop = asyncio.get_running_loop()
    try:
        address = next(address for address in await peer.network.addresses() if "/tcp/" in address)
        async with Stranger(host="127.0.9.1") as far, Stranger(host="127.0.9.2") as near:
            accept_circuits(far, circuits.read_all)
            assert await reserve(await far.dial(address)) == OK
            status, circuit = await open_circuit(await near.dial(address), far.peer_id)
            assert status == OK
            began_s = loop.time()
            await circuits.load(circuit, FLOOD_S)
            took_s = loop.time() - began_s
        assert RATE * BURST_S <= peer.network.relayed.bytes <= RATE * (BURST_S + took_s) + 2 * READ_CHUNK_BYTES
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
