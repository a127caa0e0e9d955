"""Attacks on the relay: its places, its memory. Honest workers are reached through it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from bench.harness.attacks import circuits, reservations
from bench.harness.siege import Besieged, assert_held, siege
from bench.harness.stranger.peer import Stranger
from bench.harness.stranger.relay import OK, reserve
from bench.harness.target import Target
from tests.depth import scaled

SECONDS = scaled(ci=4.0, deep=20.0)
IDENTITIES = scaled(ci=600, deep=3000)
"""That stay, and as many that come and go: 1,024 in all were the relay's places."""
CIRCUITS = 1000


@pytest.fixture(scope="module")
def besieged() -> Iterator[Besieged]:
    with siege(workers=1) as made:
        yield made


async def newcomer(target: Target) -> int:
    """What a peer from another address is told when it asks for a reservation."""
    async with Stranger(host="127.0.9.9") as stranger:
        return await reserve(await stranger.dial(target.bootstrap.tcp_address))


async def test_one_address_cannot_take_all_places(besieged: Besieged) -> None:
    """Given a relay, when one address takes more reservations than it had places, half of them for peers that leave at
    once, then a newcomer gets one, while that lasts and after it."""
    told: list[int] = []

    async def attack(target: Target) -> None:
        await reservations.attack(target, staying=0, passing=IDENTITIES)
        told.append(await newcomer(target))
        await reservations.attack(target, staying=IDENTITIES, passing=0)

    assert_held(await besieged.withstand(attack, SECONDS))
    told.append(await newcomer(besieged.target))
    assert told == [OK, OK]


async def test_idle_circuits_cost_little(besieged: Besieged) -> None:
    """Given honest requests, when strangers hold a thousand circuits, and send through one as fast as they can, then
    the relay stays small, and everybody is served."""
    assert_held(await besieged.withstand(partial(circuits.attack, idle=CIRCUITS), SECONDS))
