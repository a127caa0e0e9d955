"""Who is passed over by one request, and for how long."""

from __future__ import annotations

import pytest

from gateway.dispatch.refusals import MAX_PAUSE_S, PAUSE_S, Refusals
from p2pnet.errors import (
    Draining,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    P2PNetError,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    TooSlow,
    WorkerFailed,
)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    "error", [PeerLost(), PeerUnreachable(), ProtocolViolation(), WorkerFailed(), Draining(), InvalidRequest("")]
)
def test_who_failed_is_passed_over_for_longer_each_time_and_never_for_good(error: P2PNetError) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    pauses = []
    for _ in range(600):
        began_s = clock.now_s
        refusals.note("a", error)
        while "a" in refusals:
            clock.now_s += PAUSE_S
        pauses.append(clock.now_s - began_s)
    assert pauses[:5] == [PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S, 8 * PAUSE_S, MAX_PAUSE_S]
    assert set(pauses[4:]) == {MAX_PAUSE_S}


@pytest.mark.parametrize("error", [FeatureMissing(""), ModelNotFound(""), NotAllowed()])
@pytest.mark.parametrize("later", [False, True])
def test_who_says_that_it_cannot_is_passed_over_for_good(error: P2PNetError, later: bool) -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.note("a", error)
    if later:  # it was asked for another part of the same answer
        refusals.note("a", PeerLost())
    clock.now_s += 1e9
    assert "a" in refusals


def test_it_is_a_set_of_those_passed_over_now() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    refusals.note("a", PeerLost())
    refusals.note("b", ModelNotFound(""))
    refusals.note("a", PeerLost())
    assert (set(refusals), len(refusals)) == ({"a", "b"}, 2)
    assert {"a"} <= refusals
    clock.now_s += 2 * PAUSE_S
    assert (set(refusals), len(refusals)) == ({"b"}, 1)


def test_with_each_that_was_too_slow_the_next_may_take_longer_but_for_the_first() -> None:
    refusals = Refusals(Clock())
    patience = [refusals.patience]
    for name in "abcd":
        refusals.note(name, PeerLost())
        refusals.note(name, TooSlow())
        patience.append(refusals.patience)
    assert patience == [1, 1, 2, 4, 8]
    for _ in range(100):
        refusals.note("a", TooSlow())
    assert refusals.patience == 256
