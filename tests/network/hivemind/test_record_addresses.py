"""What a peer tells others of where it is: names looked up again now and then, and nothing that others do not dial."""

from __future__ import annotations

from collections.abc import Sequence

from p2pnet.network.dial_addresses import Scope
from p2pnet.network.hivemind.record_addresses import NAMES_S, RecordAddresses
from tests.stories import peer

OWN = peer("own").peer_id
HOME = f"/ip4/192.168.1.5/tcp/1/p2p/{OWN}"
NAME = f"/dns4/home.example/tcp/1/p2p/{OWN}"


def at(host: str) -> str:
    return f"/ip4/{host}/tcp/1/p2p/{OWN}"


async def test_a_name_is_followed_to_where_it_leads_now() -> None:
    """Given a worker at home that is announced under a name, when the router gets another address, then the worker's
    record has it within a minute, and nobody is asked for the name in between."""
    visible: tuple[str, ...] = (HOME, NAME)
    stands_for, now_s, asked = "8.8.8.8", 0.0, 0

    async def see() -> tuple[str, ...]:
        return visible

    async def resolve(addresses: Sequence[str]) -> tuple[str, ...]:
        nonlocal asked
        asked += 1
        return tuple(at(stands_for) if address == NAME else address for address in addresses)

    addresses = RecordAddresses(see, Scope.PUBLIC, resolve, lambda: now_s)
    assert addresses.last == ()
    assert await addresses.look() == (at("8.8.8.8"),)
    stands_for = "9.9.9.9"
    now_s = NAMES_S - 1
    assert await addresses.look() == (at("8.8.8.8"),)
    assert asked == 1
    now_s = NAMES_S
    assert await addresses.look() == addresses.last == (at("9.9.9.9"),)
    visible = (HOME,)
    assert await addresses.look() == ()
