"""A member's upkeep in time: how often it looks and says that it is here, and that nothing silences it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from p2pnet.errors import UsageError
from p2pnet.network.interface import Entry
from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.membership import Membership, OwnCertificate
from p2pnet.swarm.register import Register
from p2pnet.swarm.upkeep import LOOK_S, LOOKS_PER_PRESENCE, WARN_BEFORE_MS, Upkeep
from p2pnet.swarm.values import MemberValue
from tests.stories import ManualClock, peer, settle
from tests.swarm.members import ENDS_MS, KITCHEN, LAB, Place, held

ME = peer("me").peer_id


class Values:
    """What is asked of the DHT, which fails as often as a test says."""

    def __init__(self, failing: int = 0) -> None:
        self.peer_id = ME
        self.said: list[str] = []
        self.failing = failing

    async def get(self, keys: list[str]) -> dict[str, list[MemberValue]]:
        if self.failing:
            self.failing -= 1
            raise RuntimeError("the network is away")
        self.said.append("look")
        return {key: [] for key in keys}

    async def put(self, entries: list[Entry]) -> int:
        self.said.append("present")
        return 1


class Turns:
    """Sleeps of which a test says when they end."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._gate = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._gate.acquire()

    async def pass_by(self, turns: int) -> None:
        for _ in range(turns):
            before = len(self.asked)
            self._gate.release()
            await settle(lambda: len(self.asked) > before)  # noqa: B023


def upkeep(
    values: Values,
    turns: Turns,
    folder: Path,
    clock: ManualClock | None = None,
    membership: Membership | None = None,
) -> asyncio.Task[None]:
    place = Place(folder)
    clock = clock or place.clock
    certificate = OwnCertificate(membership or held(LAB.invitation()), ME)
    made = Upkeep(
        values,
        Register(LAB.swarm_id, clock),
        place.kept_list("me"),
        certificate,
        clock,
        lambda: None,
        turns,
    )
    return asyncio.create_task(made.run())


async def test_it_looks_and_says_that_it_is_here_after_a_while(tmp_path: Path) -> None:
    values, turns = Values(), Turns()
    task = upkeep(values, turns, tmp_path)
    await settle(lambda: turns.asked == [LOOK_S])
    assert values.said == []
    await turns.pass_by(LOOKS_PER_PRESENCE + 1)
    assert values.said == ["look", "present", "look", "look", "look", "present"]
    task.cancel()


async def test_a_network_that_fails_does_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values, turns = Values(failing=2), Turns()
    task = upkeep(values, turns, tmp_path)
    await settle(lambda: turns.asked == [LOOK_S])
    await turns.pass_by(3)
    assert values.said == ["present", "look"]
    assert "the next turn follows" in caplog.text
    task.cancel()


async def test_what_cannot_be_read_does_not_end_it_either(tmp_path: Path) -> None:
    def failing() -> Invitation:
        raise PermissionError("not yours any more")

    values, turns = Values(), Turns()
    membership = Membership(LAB.invitation(), failing, Place(tmp_path).kept_list("me"))
    task = upkeep(values, turns, tmp_path, membership=membership)
    await settle(lambda: turns.asked == [LOOK_S])
    await turns.pass_by(2)
    assert values.said == ["look", "present", "look"]
    task.cancel()


async def test_a_list_on_disk_counts_while_the_network_is_away(tmp_path: Path) -> None:
    place = Place(tmp_path)
    register = Register(LAB.swarm_id, place.clock)
    place.kept_list("me").write(LAB.revoking(ME), 1)
    own = OwnCertificate(held(LAB.invitation()), ME)
    cuts: list[int] = []
    away = Upkeep(
        Values(failing=1), register, place.kept_list("me"), own, place.clock, lambda: cuts.append(register.sequence)
    )
    with pytest.raises(RuntimeError):
        await away.look()
    assert (cuts, register.has(own.newest, ME)) == ([1], False)


async def test_it_warns_once_that_the_membership_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turns, clock = Turns(), ManualClock(ENDS_MS - WARN_BEFORE_MS)
    task = upkeep(Values(), turns, tmp_path, clock)
    await settle(lambda: turns.asked == [LOOK_S])
    await turns.pass_by(1)
    assert not caplog.records
    clock.advance(1)
    await turns.pass_by(2)
    ((_, level, text),) = caplog.record_tuples
    assert level == logging.WARNING and "ends in 167 hours" in text
    task.cancel()


async def test_another_invitation_is_taken_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turns, clock = Turns(), ManualClock(ENDS_MS - 1)
    old, new = LAB.invitation(), LAB.invitation(2, ENDS_MS + 2 * WARN_BEFORE_MS)
    drawer = [old]
    membership = Membership(old, lambda: drawer[-1], Place(tmp_path).kept_list("me"))
    task = upkeep(Values(), turns, tmp_path, clock, membership)
    await settle(lambda: turns.asked == [LOOK_S])
    drawer.append(new)
    await turns.pass_by(1)
    assert caplog.records == [], "there is time enough again"
    task.cancel()


def test_a_certificate_is_by_the_newest_invitation_of_the_same_swarm() -> None:
    drawer: list[Invitation] = [LAB.invitation()]

    def read_again() -> Invitation:
        if not drawer:
            raise UsageError("There is no swarm called lab here.", "Join it.")
        return drawer[-1]

    own = OwnCertificate(Membership(drawer[0], read_again, held(drawer[0]).kept_list), ME)
    for change, expected in (
        (lambda: drawer.append(LAB.invitation(2)), LAB.invitation(2)),
        (lambda: drawer.append(KITCHEN.invitation()), LAB.invitation(2)),
        (drawer.clear, LAB.invitation(2)),
        (lambda: drawer.append(LAB.invitation(3)), LAB.invitation(3)),
    ):
        change()
        assert own.renew() == own.newest == expected.certificate_for(ME)
