"""Whether others can dial this peer, by what some of them say."""

from __future__ import annotations

import asyncio
import random

import pytest

from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.reach.reachability import Reach, Reachability, judge
from p2pnet.network.reach.sight import Sight, Tried
from tests.stories import settle

OBSERVED = "/ip4/11.0.0.7/tcp/4001"
QUIC = "/ip4/11.0.0.7/udp/4001/quic-v1"
YES, NO, UNSAID = DialBack.REACHED, DialBack.NOT_REACHED, DialBack.NOT_TRIED


SIX = "/ip6/2600::7/tcp/4001"


def sight(name: str, tcp: DialBack, quic: DialBack | None = None, observed: str = OBSERVED) -> Sight:
    tried = [Tried("TCP", (observed,), tcp)]
    if quic is not None:
        tried.append(Tried("QUIC", (QUIC,), quic))
    return Sight(name, observed, tuple(tried))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], Reach.UNKNOWN),
        ([UNSAID], Reach.UNKNOWN),
        ([YES], Reach.DIRECT),  # there is nobody else
        ([NO], Reach.HIDDEN),
        ([YES, UNSAID], Reach.DIRECT),
        ([YES, NO], Reach.UNKNOWN),
        ([YES, NO, NO], Reach.HIDDEN),
        ([YES, NO, YES], Reach.DIRECT),
    ],
)
def test_two_have_to_agree_where_there_are_two(outcomes: list[DialBack], expected: Reach) -> None:
    assert judge([sight(str(number), outcome) for number, outcome in enumerate(outcomes)])[0] is expected


def test_the_addresses_are_those_where_somebody_has_come() -> None:
    sights = [sight("a", YES, NO), sight("b", YES, UNSAID)]
    assert judge(sights) == (Reach.DIRECT, (OBSERVED,))
    assert judge([*sights, sight("c", NO, YES)]) == (Reach.DIRECT, (OBSERVED, QUIC))


@pytest.mark.parametrize(
    ("observed", "is_near"), [("/ip4/192.168.1.7/tcp/1", True), ("/ip4/127.0.0.1/tcp/1", True), (OBSERVED, False)]
)
def test_who_is_on_our_own_network_says_nothing_of_others(observed: str, is_near: bool) -> None:
    assert Sight("a", observed).is_near is is_near


class Told:
    """Reachability, and what its peers will say."""

    def __init__(self, fixed: Reach | None = None, **says: DialBack) -> None:
        self.says = says
        self.asked: list[str] = []
        self.changes = 0
        self.hold = asyncio.Event()
        self.held: set[str] = set()
        self.over_six: set[str] = set()
        self.pauses: list[float] = []
        self.reachability = Reachability(
            self._look, lambda: list(self.says), self._note, fixed, random.Random(1), self._pause
        )

    async def _look(self, peer_id: str) -> Sight:
        self.asked.append(peer_id)
        if peer_id in self.held:
            await self.hold.wait()
        return sight(peer_id, self.says[peer_id], observed=SIX if peer_id in self.over_six else OBSERVED)

    def _note(self) -> None:
        self.changes += 1

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


async def test_nothing_is_believed_of_what_nobody_has_tried() -> None:
    told = Told(a=UNSAID, b=UNSAID)
    await told.reachability.ask()
    assert (told.reachability.reach, told.changes) == (Reach.UNKNOWN, 0)


async def test_two_that_have_come_are_enough_before_the_third_has_given_up() -> None:
    told = Told(a=YES, b=YES, c=NO)
    told.held = {"c"}
    asking = asyncio.create_task(told.reachability.ask())
    await settle(lambda: told.reachability.reach is not Reach.UNKNOWN)
    assert told.reachability.reach is Reach.DIRECT
    assert not asking.done()
    told.hold.set()
    await asking
    assert told.changes == 1


async def test_what_is_learnt_again_is_no_change_and_what_is_otherwise_is_one() -> None:
    told = Told(a=YES)
    await told.reachability.ask()
    await told.reachability.ask()
    assert told.changes == 1
    told.says = {"a": NO}
    await told.reachability.ask()
    assert (told.reachability.reach, told.reachability.addresses, told.changes) == (Reach.HIDDEN, (), 2)
    told.says = {"a": UNSAID}
    await told.reachability.ask()
    assert (told.reachability.reach, told.changes) == (Reach.HIDDEN, 2)


async def test_ipv4_and_ipv6_are_two_questions() -> None:
    """Behind a router that hides the house from IPv4 alone. Who says something of the one says nothing of the other."""
    told = Told(a=NO, b=YES, c=YES)
    told.over_six = {"b", "c"}
    await told.reachability.ask()
    assert [told.reachability.over(family) for family in ("ip4", "ip6", "dns4")] == [
        Reach.HIDDEN,
        Reach.DIRECT,
        Reach.UNKNOWN,
    ]
    assert (told.reachability.reach, told.reachability.addresses) == (Reach.HIDDEN, (SIX,))
    told.says = {"b": NO, "c": UNSAID}
    await told.reachability.ask()
    assert told.reachability.over("ip6") is Reach.HIDDEN
    told.reachability.note_moved()
    assert {told.reachability.over(family) for family in ("ip4", "ip6")} == {Reach.UNKNOWN}


async def test_who_is_never_told_asks_less_and_less_until_something_changes() -> None:
    """A machine without IPv4, and one that all others see over IPv6."""
    told = Told(a=YES)
    told.over_six = {"a"}
    running = asyncio.create_task(told.reachability.run())
    await settle(lambda: len(told.pauses) >= 14)
    between = told.pauses[1::2]
    assert between[:6] == [15.0, 35.0, 75.0, 155.0, 295.0, 295.0]
    running.cancel()


async def test_no_more_than_a_few_are_asked() -> None:
    told = Told(**{f"peer{number}": YES for number in range(50)})
    await told.reachability.ask()
    assert len(told.asked) == 3


async def test_the_user_is_believed() -> None:
    told = Told(Reach.HIDDEN, a=YES)
    running = asyncio.create_task(told.reachability.run())
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    assert (told.asked, told.reachability.reach) == ([], Reach.HIDDEN)


async def test_who_has_moved_knows_nothing_until_others_were_asked() -> None:
    told = Told(a=YES)
    await told.reachability.ask()
    told.reachability.note_moved()
    assert (told.reachability.reach, told.reachability.addresses, told.changes) == (Reach.UNKNOWN, (), 2)
    fixed = Told(Reach.DIRECT, a=NO)
    fixed.reachability.note_moved()
    assert (fixed.reachability.reach, fixed.changes) == (Reach.DIRECT, 0)


async def test_a_port_that_was_mapped_meanwhile_is_asked_about_at_once() -> None:
    """One that is asked tries the old addresses for 15 s before it says that it could not come."""
    told = Told(a=NO)
    told.held = {"a"}
    running = asyncio.create_task(told.reachability.run())
    await settle(lambda: told.asked == ["a"])
    told.says, told.held = {"a": YES}, set()
    told.reachability.note_new_address()
    await settle(lambda: told.reachability.reach is Reach.DIRECT)
    assert told.changes == 1
    told.says = {"a": NO}
    told.reachability.note_new_address()
    await settle(lambda: told.reachability.reach is Reach.HIDDEN)
    running.cancel()
