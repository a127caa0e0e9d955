"""Flags: who is flagged, for how long, and who is told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gateway.peers.flags import FLAGGED_S, MAX_FLAGS, UNLIKE, Flag, Flags
from tests.stories import DIGEST


def flag(worker: str, at_s: float = 0.0) -> Flag:
    return Flag(worker, UNLIKE, DIGEST, 75, 14.9, ("one", "other"), is_by_trusted=False, flagged_unix_s=at_s)


CHANGES: dict[str, tuple[Callable[[Flags], None], int, set[str]]] = {
    "one more": (lambda flags: flags.add(flag("cat")), 1, {"ann", "bob", "cat"}),
    "one again, for another week": (lambda flags: flags.add(flag("ann", 50.0)), 1, {"ann", "bob"}),
    "one is lifted": (lambda flags: flags.lift("ann"), 1, {"bob"}),
    "nobody is lifted": (lambda flags: flags.lift("cat"), 0, {"ann", "bob"}),
    "one has expired": (lambda flags: flags.expire(), 1, {"bob"}),
}


@pytest.mark.parametrize(("change", "told", "left"), CHANGES.values(), ids=CHANGES)
def test_who_is_flagged_after_a_change(change: Callable[[Flags], None], told: int, left: set[str]) -> None:
    flags = Flags([flag("ann"), flag("bob", 100.0)], unix_s=lambda: FLAGGED_S)
    times: list[set[str]] = []
    flags.listen(lambda: times.append({each.worker for each in flags.all}))
    change(flags)
    assert {each.worker for each in flags.all} == left
    assert times == [left] * told
    assert all((name in flags) == (name in left) for name in ("ann", "bob", "cat"))


def test_flags_are_bounded_and_the_oldest_goes() -> None:
    flags = Flags()
    for number in range(MAX_FLAGS + 1):
        flags.add(flag(f"worker {number}"))
    assert len(flags) == MAX_FLAGS and "worker 0" not in flags and "worker 1" in flags


def test_all_that_have_expired_are_lifted_with_one_word() -> None:
    flags = Flags([*(flag(f"old {number}") for number in range(5)), flag("new", 100.0)], unix_s=lambda: FLAGGED_S)
    told: list[int] = []
    flags.listen(lambda: told.append(len(flags)))
    flags.expire()
    flags.expire()
    assert told == [1] and "new" in flags
