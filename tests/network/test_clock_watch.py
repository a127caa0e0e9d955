"""A clock that runs off in mid-life is noticed and said once, whatever one liar says of it."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import pytest

from p2pnet.network.clock_watch import LOOK_S, MAX_OFF_S, SAY_AGAIN_S, ClockState, ClockWatch, judge

JUDGED: list[tuple[str, list[float], float, ClockState, str]] = [
    ("all agree", [0.0, 0.1, -0.1, 0.0], 0.0, ClockState(0.0, 4), ""),
    ("near enough", [MAX_OFF_S] * 3, 0.0, ClockState(-MAX_OFF_S, 3), ""),
    ("we are behind", [10.0, 10.2, 9.9], 0.0, ClockState(-10.0, 3), "10 s behind those of 3 peers"),
    ("we are ahead", [-3600.0] * 5, 0.0, ClockState(3600.0, 5), "3600 s ahead of those of 5 peers"),
    ("one liar of three", [0.0, 0.0, 5000.0], 0.0, ClockState(0.0, 3), ""),
    ("three liars of seven", [0.0] * 4 + [-99.0] * 3, 0.0, ClockState(0.0, 7), ""),
    ("liars and we are wrong", [-9.0, -9.1, -9.2, 99.0, 99.0, -9.3, -9.4], 0.0, ClockState(9.1, 7), "9 s ahead"),
    ("one of two lies", [0.0, 99.0], 0.0, ClockState(0.0, 2), ""),
    ("two who agree", [8.0, 9.0], 0.0, ClockState(-8.0, 2), "8 s behind those of 2 peers"),
    ("the only one", [8.0], 0.0, ClockState(-8.0, 1), "8 s behind that of the one peer that answers"),
    ("nobody answers", [], 0.0, ClockState(0.0, 0), ""),
    ("nobody answers, and it was set", [], -42.0, ClockState(-42.0, 0), "was moved by -42 s"),
    ("it was set right", [0.0, 0.0, 0.0], -42.0, ClockState(0.0, 3), ""),
]


@pytest.mark.parametrize("case", JUDGED, ids=[case[0] for case in JUDGED])
def test_what_others_say_of_ours(case: tuple[str, list[float], float, ClockState, str]) -> None:
    _, others, moved_s, state, says = case
    random.Random(7).shuffle(others)
    found = judge(others, moved_s)
    assert (found.ahead_s, found.peers) == (pytest.approx(state.ahead_s), state.peers)
    assert found.is_off == bool(says)
    assert says in found.says and bool(found.says) == bool(says)


JUMPS = [
    ("it was set wrong", [-3600.0] * 5, 3600.0, True),
    ("back", [60.0], -60.0, True),
    ("it was set right, and others are wrong no more", [0.0] * 5, 3600.0, False),
    ("others say so, and nothing has moved here", [-3600.0] * 5, 0.0, False),
    ("others say so, and it has moved the other way", [-3600.0] * 5, -3600.0, False),
    ("it has moved, and nobody can be asked", [], 3600.0, False),
]


@pytest.mark.parametrize(("others", "moved_s", "has_jumped"), [case[1:] for case in JUMPS], ids=[c[0] for c in JUMPS])
def test_a_jump_is_what_others_say_and_is_seen_here(others: list[float], moved_s: float, has_jumped: bool) -> None:
    """So liars make no worker withdraw."""
    assert judge(others, moved_s).has_jumped == has_jumped


class Machine:
    """A machine with a clock that can be set, in a network of peers whose clocks are right."""

    def __init__(self) -> None:
        self.true_s = 1_800_000_000.0
        self.off_s = 0.0
        self.peers = 5
        self.looks = 0
        self.watch = ClockWatch(self._measure, lambda: round((self.true_s + self.off_s) * 1000), lambda: self.true_s)

    async def _measure(self) -> Sequence[float]:
        self.looks += 1
        return [-self.off_s] * self.peers

    async def after(self, seconds: float) -> None:
        """So much later."""
        for _ in range(round(seconds / LOOK_S)):
            self.true_s += LOOK_S
            await self.watch.look()


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


@pytest.mark.parametrize("off_s", [2.5, -2.5, 3600.0, -86400.0])
async def test_it_is_said_within_a_minute_and_once(said: pytest.LogCaptureFixture, off_s: float) -> None:
    machine = Machine()
    await machine.after(3600)
    assert said.messages == []
    machine.off_s = off_s
    await machine.after(60)
    assert machine.watch.state.has_jumped
    (warning,) = said.messages
    assert "timedatectl" in warning
    assert machine.watch.state.ahead_s == pytest.approx(off_s, abs=0.01)
    await machine.after(SAY_AGAIN_S - 60)
    assert len(said.messages) == 1
    await machine.after(60)
    assert len(said.messages) == 2, "it is said again while it stays so"
    machine.off_s = 0.0
    await machine.after(LOOK_S)
    assert said.messages[2:] == ["this machine's clock is right again"]


async def test_slow_drift_is_noticed(said: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    while abs(machine.off_s) <= MAX_OFF_S + 0.1:
        machine.off_s -= 0.01
        await machine.after(LOOK_S)
    assert len(said.messages) == 1


async def test_a_clock_that_is_set_while_nobody_can_be_asked(said: pytest.LogCaptureFixture) -> None:
    """It is said from what can be seen here; and when others can be asked again, they are believed."""
    machine = Machine()
    await machine.after(60)
    machine.peers = 0
    await machine.after(60)
    assert said.messages == []
    machine.off_s = -120.0
    await machine.after(LOOK_S)
    assert "moved by -120 s" in said.messages[0]
    machine.peers = 3
    await machine.after(LOOK_S)
    assert "120 s behind those of 3 peers" in machine.watch.state.says
    machine.off_s = 0.0
    await machine.after(LOOK_S)
    assert not machine.watch.state.is_off


async def test_a_look_that_fails_is_not_the_last(said: pytest.LogCaptureFixture) -> None:
    looks = 0

    async def measure() -> Sequence[float]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError
        return [60.0] * 3

    class Enough(Exception):
        pass

    async def sleep(_: float) -> None:
        if looks == 2:
            raise Enough

    watch = ClockWatch(measure, lambda: 0, lambda: 0.0)
    with pytest.raises(Enough):
        await watch.run(sleep)
    assert watch.state == ClockState(-60.0, 3)
