"""When a peer that has lost its relay asks for a place again."""

from __future__ import annotations

from itertools import pairwise

from p2pnet.network.hivemind.lost_relay import FIRST_WAIT_S, MAX_WAIT_S, LostRelay


def test_a_peer_that_never_had_a_relay_has_lost_none() -> None:
    assert not LostRelay().is_over(False, True, 1e6)


def test_one_that_has_lost_it_asks_again_soon() -> None:
    relay = LostRelay()
    relay.is_over(True, True, 0)
    assert [relay.is_over(False, True, now_s) for now_s in (1, FIRST_WAIT_S, 1 + FIRST_WAIT_S)] == [False, False, True]


def test_nobody_is_asked_while_nobody_is_there() -> None:
    relay = LostRelay()
    relay.is_over(True, True, 0)
    assert not any(relay.is_over(False, False, now_s) for now_s in range(1000))
    assert not relay.is_over(False, True, 1000)
    assert relay.is_over(False, True, 1000 + FIRST_WAIT_S)


def test_a_relay_that_refuses_is_asked_ever_more_seldom() -> None:
    relay = LostRelay()
    relay.is_over(True, True, 0)
    asked_s = [now_s for now_s in range(1, 4000) if relay.is_over(False, True, now_s)]
    pauses = [later - earlier for earlier, later in pairwise(asked_s)]
    assert pauses == sorted(pauses)
    assert len(asked_s) < 13
    assert max(pauses) <= MAX_WAIT_S + 1


def test_it_is_as_before_once_there_is_one() -> None:
    relay = LostRelay()
    relay.is_over(True, True, 0)
    for now_s in range(1, 100):
        relay.is_over(False, True, now_s)
    relay.is_over(True, True, 100)
    relay.is_over(False, True, 101)
    assert relay.is_over(False, True, 101 + FIRST_WAIT_S)
