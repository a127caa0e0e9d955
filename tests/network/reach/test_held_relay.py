"""One relay: a place that is taken, kept, lost and taken again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2pnet.network.reach.held_relay import RENEW_S, HeldRelay
from tests.network.reach.relay_world import Relay, RelayWorld
from tests.stories import settle_threads

MANY_TURNS = 100_000


@asynccontextmanager
async def held(relay: Relay, ping_timeout_s: float = 3.0) -> AsyncIterator[tuple[RelayWorld, HeldRelay]]:
    world = RelayWorld(relay)
    made = HeldRelay(relay.candidate, world, world.note_change, world.clock, world.pause, ping_timeout_s)
    running = asyncio.create_task(made.run())
    try:
        yield world, made
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert relay.streams == [], "all streams are closed"


async def test_a_place_is_taken_and_renewed() -> None:
    relay = Relay("a", round_trip_s=0.08)
    async with held(relay) as (world, one):
        await world.passes(5)
        assert one.reservation is not None
        assert one.lost_s is None
        assert one.round_trip_s == pytest.approx(0.08)
        assert (relay.asked, world.changes) == (1, 1)
        await world.passes(RENEW_S)
        assert (relay.asked, world.changes) == (2, 1)


async def test_a_relay_that_is_started_again_gives_a_place_within_seconds() -> None:
    relay = Relay("a")
    async with held(relay) as (world, one):
        await world.passes(5)
        relay.go()
        await world.passes(240)
        assert one.reservation is None
        assert world.changes == 2
        asked = relay.asked
        relay.is_there = True
        assert await world.passes(10, lambda: one.reservation is not None) < 2.5
        assert relay.asked == asked + 1, "it is not asked before it is there"


async def test_one_that_refuses_is_asked_ever_more_seldom() -> None:
    relay = Relay("a", is_full=True)
    async with held(relay) as (world, one):
        await world.passes(300)
        assert one.is_refused and one.reservation is None
        assert relay.asked < 12
        relay.is_full = False
        await world.passes(61)
        assert one.reservation is not None and not one.is_refused


async def test_a_connection_that_is_dead_and_passes_for_alive_is_hung_up_on() -> None:
    """A router has forgotten it."""
    relay = Relay("a")
    async with held(relay, ping_timeout_s=0.02) as (world, one):
        await world.passes(5)
        relay.is_mute = True
        await world.passes(2.5)
        await settle_threads(lambda: relay.hung_up > 0, MANY_TURNS)
        assert (relay.hung_up, one.reservation) == (1, None)
        relay.is_mute = False
        assert await world.passes(10, lambda: one.reservation is not None) < 3


async def test_whatever_goes_wrong_a_place_that_is_not_held_is_none_and_is_asked_for_again() -> None:
    relay = Relay("a")
    async with held(relay) as (world, one):
        await world.passes(5)
        relay.breaks = True
        await world.passes(5)
        assert one.reservation is None
        relay.breaks = False
        assert await world.passes(10, lambda: one.reservation is not None) < 3
