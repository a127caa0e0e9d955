"""What a peer tells others of how it is reached, by what is known of it and the relays that it has."""

from __future__ import annotations

import pytest

from p2pnet.network.dial_addresses import Scope
from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.reach.own_reach import OwnReach
from p2pnet.network.reach.reachability import Reachability
from p2pnet.network.reach.relays import Relays, one_of_each
from p2pnet.network.reach.sight import Sight, Tried
from tests.network.reach.relay_world import OWN, Relay, RelayWorld
from tests.stories import peer

YES, NO = DialBack.REACHED, DialBack.NOT_REACHED
HOME = f"/ip4/192.168.1.5/tcp/1/p2p/{OWN}"
SIX = f"/ip6/2600::5/tcp/1/p2p/{OWN}"
FOUR = f"/ip4/20.9.9.9/tcp/1/p2p/{OWN}"


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
    """Relays are kept for those who have IPv4 alone, whatever is known of IPv6. Nobody is sent where he cannot get."""
    relay = Relay("relay")
    world = RelayWorld(relay)
    says = {"a": (FOUR, four), "b": (SIX, six)}

    async def look(peer_id: str) -> Sight:
        address, outcome = says[peer_id]
        plain = address.rsplit("/p2p/", 1)[0]
        return Sight(peer_id, plain, () if outcome is None else (Tried("TCP", (plain,), outcome),))

    reachability = Reachability(look, lambda: list(says), world.note_change)
    relays = Relays(OWN, lambda: [relay.candidate], world, Scope.LOOPBACK, world.note_change, world.clock, world.pause)
    own = OwnReach(OWN, reachability, relays, scope)
    await reachability.ask()
    own.note_changed()
    assert relays.are_wanted == (four is NO)
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
