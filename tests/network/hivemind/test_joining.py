"""What is concluded from meetings: whose clock is off, and what a person is told when nobody lets us in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pnet.config import NetworkConfig
from p2pnet.errors import JoinError, PeerUnreachable
from p2pnet.network.hivemind.joining import Joiner, clock_ahead_s, join_error, refusal
from tests.stories import address_of, peer

ADDRESSES = ("/ip4/192.0.2.1/tcp/1/p2p/A", "/ip4/192.0.2.2/tcp/2/p2p/B")

SOON_S = 5.0


@pytest.mark.parametrize(
    ("theirs_s", "ahead_s"), [(100.0, 0.0), (101.5, 0.0), (102.0, 0.0), (107.0, 5.0), (96.0, -4.0), (0.5, -99.5)]
)
def test_a_clock_is_off_only_by_what_the_answer_s_way_does_not_explain(theirs_s: float, ahead_s: float) -> None:
    assert clock_ahead_s(theirs_s, asked_s=100.0, answered_s=102.0) == ahead_s


def test_nobody_could_be_reached() -> None:
    error = join_error(ADDRESSES, [PeerUnreachable("no answer in time"), PeerUnreachable("no route")])
    assert str(error) == (
        f"No peer could be reached. Tried {ADDRESSES[0]} (no answer in time); {ADDRESSES[1]} (no route)."
    )
    assert "--initial-peers" in error.fix


GONE, SKEWED = PeerUnreachable("no route"), JoinError("This machine's clock differs.", "Set the clock.")


@pytest.mark.parametrize(
    ("problems", "knows_others", "is_refused"),
    [
        ([], False, False),
        ([GONE], False, False),
        ([GONE, GONE], False, True),
        ([GONE, GONE], True, False),  # who was known before has let us in
        ([SKEWED], False, False),
        ([SKEWED, GONE], True, True),  # somebody has asked us something meanwhile
        ([SKEWED, SKEWED], True, True),
        ([SKEWED, SKEWED], False, True),
    ],
)
def test_who_is_not_let_in(problems: list[Exception], knows_others: bool, is_refused: bool) -> None:
    assert (refusal(ADDRESSES, problems, knows_others) is not None) is is_refused


def test_a_wrong_clock_is_what_a_person_is_told_first() -> None:
    assert join_error(ADDRESSES, [GONE, SKEWED]) is SKEWED


ANSWERS, SWALLOWS = peer("answers"), peer("swallows")


class Initial:
    """Stands for all parts around a Joiner. ANSWERS answers; SWALLOWS swallows whatever it is sent."""

    peer_id = "own"

    def __init__(self) -> None:
        self.neighbours = 0
        self.looked_around = 0

    def neighbour_ids(self) -> set[str]:
        return {ANSWERS.peer_id} if self.neighbours else set()

    def newest_addresses(self, count: int) -> list[str]:
        return []

    def learn(self, addresses: list[str]) -> None:
        """Whom to dial where is known."""

    async def connect(self, peer_id: str) -> None:
        if peer_id == SWALLOWS.peer_id:
            await asyncio.Event().wait()

    async def ping(self, peer_id: str) -> SimpleNamespace:
        return SimpleNamespace(time_s=0.0, sender=None)

    def met(self, peer_id: str, sender: None) -> None:
        self.neighbours = 1

    async def look_around(self) -> None:
        self.looked_around += 1


@pytest.fixture
def world() -> Initial:
    return Initial()


@pytest.fixture
def joiner(world: Initial) -> Joiner:
    part = cast(Any, world)
    initial = (address_of(ANSWERS), address_of(SWALLOWS))
    config = NetworkConfig(Path("key"), initial_peers=initial, join_timeout_s=3600.0, rpc_timeout_s=0.0)
    return Joiner(config, part, part, part, lambda: 0)


async def test_an_initial_peer_that_swallows_packets_holds_up_no_return_to_the_network(
    world: Initial, joiner: Joiner
) -> None:
    """Given two initial peers of which one swallows packets, when everybody is lost, then the peer is back through the
    other one at once, and not after all the time that a connection may take."""
    async with asyncio.timeout(SOON_S):
        assert await joiner.rejoin()
    assert world.looked_around == 1


async def test_nor_does_it_hold_up_a_start(world: Initial, joiner: Joiner) -> None:
    async with asyncio.timeout(SOON_S):
        await joiner.join()
    assert world.looked_around == 1
