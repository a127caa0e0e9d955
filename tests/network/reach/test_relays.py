"""Which relays a peer has places at."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from p2pnet.network.dial_addresses import Scope
from p2pnet.network.reach.relays import BUSY_PERCENT, PLACES, RESTING_S, Relays
from tests.network.reach.relay_world import OWN, STINGY, Relay, RelayWorld


@asynccontextmanager
async def kept(
    *relays: Relay, are_wanted: bool = True, known: Callable[[], Sequence[Relay]] | None = None
) -> AsyncIterator[tuple[RelayWorld, Relays]]:
    """A peer that may ask these, or those of them that are known at a time."""
    world = RelayWorld(*relays)
    made = Relays(
        OWN,
        lambda: [relay.candidate for relay in (relays if known is None else known())],
        world,
        Scope.LOOPBACK,
        world.note_change,
        world.clock,
        world.pause,
    )
    made.are_wanted = are_wanted
    running = asyncio.create_task(made.run())
    try:
        yield world, made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert all(relay.streams == [] for relay in relays)


def names(relays: Relays, world: RelayWorld) -> list[str]:
    return [world.relays[held.candidate.peer_id].name for held in relays.held]


async def test_two_of_the_nearest_are_kept() -> None:
    async with kept(Relay("far", 0.3), Relay("near", 0.01), Relay("middle", 0.1)) as (world, relays):
        await world.passes(10)
        assert names(relays, world) == ["near", "middle"]


async def test_one_that_has_much_to_carry_is_taken_where_there_is_no_other() -> None:
    busy = Relay("near", 0.01, load_percent=BUSY_PERCENT)
    async with kept(busy, Relay("far", 0.3, load_percent=BUSY_PERCENT - 1), Relay("middle", 0.1)) as (world, relays):
        await world.passes(10)
        assert names(relays, world) == ["middle", "far"]
    async with kept(busy) as (world, relays):
        await world.passes(10)
        assert names(relays, world) == ["near"]


async def test_others_reach_us_through_each() -> None:
    relay = Relay("only")
    async with kept(relay) as (world, relays):
        await world.passes(3)
        [address] = relay.candidate.addresses
        assert relays.addresses() == (f"{address}/p2p-circuit/p2p/{OWN}",)
        relay.go()
        await world.passes(3)
        assert relays.addresses() == ()


async def test_nobody_is_asked_where_none_is_wanted() -> None:
    relay = Relay("a")
    async with kept(relay, are_wanted=False) as (world, relays):
        await world.passes(5)
        assert relay.asked == 0
        relays.are_wanted = True
        await world.passes(5)
        assert names(relays, world) == ["a"]
        relays.are_wanted = False
        await world.passes(1)
        assert relays.held == []


async def test_for_those_who_have_ipv6_alone_one_is_kept_that_has_it() -> None:
    """Also where others were kept before, since it was not known yet that everybody else dials us."""
    near, both, far = Relay("near", 0.01), Relay("both", 0.1, has_ip6=True), Relay("far", 0.3, has_ip6=True)
    async with kept(near, both, far) as (world, relays):
        await world.passes(10)
        assert (names(relays, world), len(relays.addresses())) == (["near", "both"], 3)
        relays.are_for_ip6 = True
        await world.passes(RESTING_S + 5)
        assert names(relays, world) == ["both"]
        assert relays.addresses() == (f"{both.candidate.addresses[1]}/p2p-circuit/p2p/{OWN}",)
        both.go()
        await world.passes(10)
        assert names(relays, world) == ["far"]
        assert near.asked == 1


async def test_one_that_is_lost_is_replaced_at_once() -> None:
    near, next_, spare = Relay("near", 0.01), Relay("next", 0.02), Relay("spare", 0.3)
    async with kept(near, next_, spare) as (world, relays):
        await world.passes(10)
        await world.passes(RESTING_S)
        near.go()
        assert await world.passes(5, lambda: "spare" in names(relays, world)) < 2
        assert names(relays, world)[0] == "next"


async def test_one_that_cuts_circuits_soon_is_taken_where_there_is_no_other() -> None:
    stingy, generous, far = Relay("stingy", 0.01, STINGY), Relay("generous", 0.1), Relay("far", 0.2)
    async with kept(stingy, generous, far) as (world, relays):
        await world.passes(10)
        assert names(relays, world) == ["generous", "far"]
        far.go()
        generous.go()
        await world.passes(RESTING_S + 5)
        assert names(relays, world) == ["stingy"]


async def test_two_are_found_where_one_node_in_twenty_relays() -> None:
    """Of a thousand nodes of the DHT, of which a peer knows a few at a time: as many questions as it takes to meet two,
    each answered in a round trip, a few at a time."""
    chance = random.Random(1)
    nodes = [Relay(f"node {number}", is_full=number % 20 != 0) for number in range(1000)]
    async with kept(*nodes, known=lambda: chance.sample(nodes, 16)) as (world, relays):
        took_s = await world.passes(60, lambda: len(relays.held) == PLACES)
        asked = [node.asked for node in nodes if node.asked]
        assert set(asked) == {1}, "nobody is asked twice"
        assert len(asked) < 100
        assert took_s < 20


async def test_those_that_refuse_make_room_for_others() -> None:
    full = [Relay(f"full{number}", is_full=True) for number in range(6)]
    async with kept(*full, Relay("a"), Relay("b")) as (world, relays):
        await world.passes(60)
        assert sorted(names(relays, world)) == ["a", "b"]
        assert len(relays.held) == PLACES
