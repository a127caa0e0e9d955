"""What is concluded from meetings: whose clock is off, and what a person is told when nobody lets us in."""

from __future__ import annotations

import pytest

from p2pnet.errors import JoinError, PeerUnreachable
from p2pnet.network.hivemind.joining import clock_ahead_s, join_error, refusal

ADDRESSES = ("/ip4/192.0.2.1/tcp/1/p2p/A", "/ip4/192.0.2.2/tcp/2/p2p/B")


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
