"""What callers may take of something bounded."""

from __future__ import annotations

import pytest

from gateway.shares import Shares, may_take


@pytest.mark.parametrize(
    ("own", "taken", "may"),
    [
        (0, 0, True),
        (4, 4, True),
        (5, 5, False),
        (0, 9, True),
        (0, 10, False),
        (3, 6, True),
        (4, 7, False),
        (1, 9, False),
    ],
)
def test_a_caller_may_have_as_much_as_is_free(own: int, taken: int, may: bool) -> None:
    assert may_take(own, taken, bound=10) is may


def test_callers_that_keep_asking_leave_room_for_the_next() -> None:
    for callers in range(1, 9):
        own = [0] * callers
        while any(may_take(mine, sum(own), 100) for mine in own):
            own = [mine + may_take(mine, sum(own), 100) for mine in own]
        assert sum(own) < 100
        assert max(own) - min(own) <= 1
        assert min(own) >= 100 // (callers + 1)


def test_who_asks_for_much_needs_as_much_to_be_free() -> None:
    shares = Shares(100)
    assert shares.has_room("anna", 100)
    assert not shares.has_room("anna", 101)
    shares.take("anna", 40)
    assert shares.has_room("anna", 20)
    assert not shares.has_room("anna", 21)
    assert shares.has_room("ben", 60)
    shares.give_back("anna", 40)
    assert (shares.taken, shares.of("anna")) == (0, 0)
    assert shares.has_room("anna", 100)
