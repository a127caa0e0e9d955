"""What a peer tells others of how it is reached, by what is known of it and the relays that it has."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.network.dial_addresses import Scope
from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.reach.own_reach import GRACE_S, OwnReach
from p2pnet.network.reach.reachability import Reachability
from p2pnet.network.reach.relays import Relays, one_of_each
from p2pnet.network.reach.sight import Sight, Tried
from tests.network.reach.relay_world import OWN, Relay, RelayWorld
from tests.stories import peer

YES, NO = DialBack.REACHED, DialBack.NOT_REACHED
HOME = f"/ip4/192.168.1.5/tcp/1/p2p/{OWN}"
SIX = f"/ip6/2600::5/tcp/1/p2p/{OWN}"
FOUR = f"/ip4/20.9.9.9/tcp/1/p2p/{OWN}"


async def asked(
    world: RelayWorld, four: DialBack | None, six: DialBack | None, scope: Scope = Scope.PUBLIC
) -> tuple[OwnReach, Relays]:
    """A peer that has asked others over both families, of whom some may have said nothing (None)."""
    says = {"a": (FOUR, four), "b": (SIX, six)}

    async def look(peer_id: str) -> Sight:
        address, outcome = says[peer_id]
        plain = address.rsplit("/p2p/", 1)[0]
        return Sight(peer_id, plain, () if outcome is None else (Tried("TCP", (plain,), outcome),))

    reachability = Reachability(look, lambda: list(says), world.note_change)
    found = [relay.candidate for relay in world.relays.values()]
    relays = Relays(OWN, lambda: found, world, Scope.LOOPBACK, world.note_change, world.clock, world.pause)
    own = OwnReach(OWN, reachability, relays, scope, world.pause)
    await reachability.ask()
    own.note_changed()
    return own, relays


@pytest.mark.parametrize(
    ("four", "six", "at_once", "later", "for_ip6"),
    [
        (NO, NO, True, True, False),
        (NO, YES, True, True, False),
        (None, NO, False, True, False),
        (None, None, False, True, False),
        (YES, NO, True, True, True),
        (YES, None, False, True, True),
        (YES, YES, False, False, True),
    ],
)
async def test_when_relays_are_wanted(
    four: DialBack | None, six: DialBack | None, at_once: bool, later: bool, for_ip6: bool
) -> None:
    """For all, until it is known that others dial us over IPv4; and then for those who have IPv6 alone."""
    world = RelayWorld()
    own, relays = await asked(world, four, six)
    assert (relays.are_wanted, relays.are_for_ip6) == (at_once, for_ip6)
    running = asyncio.create_task(own.run())
    await world.passes(2 * GRACE_S)
    assert (relays.are_wanted, relays.are_for_ip6) == (later, for_ip6)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("four", "six", "has_relay", "scope", "named"),
    [
        (None, None, True, Scope.PUBLIC, {HOME, SIX, "relay"}),
        (YES, None, False, Scope.PUBLIC, {HOME, SIX, FOUR}),
        (YES, NO, False, Scope.PUBLIC, {HOME, FOUR}),
        (NO, None, True, Scope.PUBLIC, {"relay"}),
        (NO, YES, True, Scope.PUBLIC, {SIX, "relay"}),
        (NO, NO, True, Scope.PUBLIC, {"relay"}),
        (NO, NO, False, Scope.PUBLIC, {HOME, SIX}),
        (None, NO, True, Scope.PUBLIC, {"relay"}),
        (None, YES, True, Scope.PUBLIC, {HOME, SIX, "relay"}),
        (NO, NO, True, Scope.PRIVATE, {HOME, SIX, "relay"}),
    ],
)
async def test_what_is_named(
    four: DialBack | None, six: DialBack | None, has_relay: bool, scope: Scope, named: set[str]
) -> None:
    """Nobody is sent where he cannot get."""
    relay = Relay("relay")
    world = RelayWorld(relay)
    own, relays = await asked(world, four, six, scope)
    if has_relay:
        relays.are_wanted = True
        relays.look()
        await world.passes(3)
    try:
        circuit = f"{relay.candidate.addresses[0]}/p2p-circuit/p2p/{OWN}"
        assert set(own.addresses([HOME, SIX])) == {circuit if each == "relay" else each for each in named}
    finally:
        await relays.stop()


def test_a_relay_is_named_over_both_families() -> None:
    """IPv4 first: where there is no room for all, everybody can dial that."""
    relay = peer("relay").peer_id
    tcp, quic = "/ip4/20.1.1.1/tcp/1", "/ip4/20.1.1.1/udp/1/quic-v1"
    tcp6, quic6 = "/ip6/2600::1/tcp/1", "/ip6/2600::1/udp/1/quic-v1"
    more = ["/ip4/20.1.1.2/tcp/1", "/ip6/2600::2/udp/1/quic-v1"]
    named = [f"{address}/p2p/{relay}" for address in (tcp6, tcp, quic6, *more, quic)]
    assert one_of_each(named) == [f"{address}/p2p/{relay}" for address in (quic, tcp, quic6, tcp6)]
    assert one_of_each(named[:1]) == named[:1]
