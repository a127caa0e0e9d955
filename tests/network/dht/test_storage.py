"""What a node keeps for others: until when, and how much of whom."""

from __future__ import annotations

import random

import pytest

from p2pnet.network.dht import storage
from p2pnet.network.dht.storage import (
    MAX_BYTES,
    MAX_TOLD_BYTES,
    MAX_TOLD_VALUES,
    MAX_VALUES_PER_GROUP,
    MAX_VALUES_PER_KEY_AND_GROUP,
    MAX_VALUES_PER_PEER,
    Storage,
)
from p2pnet.network.dht.values import MAX_VALUES_PER_KEY
from p2pnet.network.interface import StoredValue

NOW_MS = 1_000_000
SOON_MS = NOW_MS + 1_000
HOME = "192.0.2.0/24"


def value(key: int, peer: str = "a", expires_ms: int = SOON_MS, data: bytes = b"record") -> StoredValue:
    return StoredValue(key.to_bytes(20, "big"), peer, data, expires_ms)


def held(kept: Storage, key: int, now_ms: int = NOW_MS) -> list[StoredValue]:
    return sorted(kept.get(key.to_bytes(20, "big"), now_ms), key=lambda each: each.subkey)


def test_a_value_is_there_until_it_expires() -> None:
    kept = Storage()
    assert kept.store(value(1), HOME, NOW_MS)
    assert kept.store(value(1, "b", SOON_MS + 1), HOME, NOW_MS)
    assert held(kept, 1) == [value(1), value(1, "b", SOON_MS + 1)]
    assert held(kept, 1, SOON_MS) == [value(1, "b", SOON_MS + 1)]
    assert held(kept, 1, SOON_MS + 1) == held(kept, 2) == []
    assert (len(kept), kept.size_bytes) == (0, 0)


def test_a_value_that_has_expired_is_refused() -> None:
    assert not Storage().store(value(1, expires_ms=NOW_MS), HOME, NOW_MS)


@pytest.mark.parametrize(("expires_ms", "is_stored"), [(SOON_MS - 1, False), (SOON_MS, False), (SOON_MS + 1, True)])
def test_a_later_expiry_replaces_and_no_other(expires_ms: int, is_stored: bool) -> None:
    kept = Storage()
    kept.store(value(1), HOME, NOW_MS)
    newer = value(1, expires_ms=expires_ms, data=b"another")
    assert kept.store(newer, "another group", NOW_MS) is is_stored
    assert held(kept, 1) == [newer if is_stored else value(1)]
    assert len(kept) == 1


def test_one_peer_has_a_bound() -> None:
    kept = Storage()
    taken = [kept.store(value(number), HOME, NOW_MS) for number in range(MAX_VALUES_PER_PEER + 1)]
    assert taken == [True] * MAX_VALUES_PER_PEER + [False]
    assert kept.store(value(0, expires_ms=SOON_MS + 1), HOME, NOW_MS), "what is there may be renewed"
    assert kept.store(value(0, "b"), HOME, NOW_MS)


def test_one_group_of_addresses_has_a_bound() -> None:
    kept = Storage()
    taken = [kept.store(value(number, f"{number}"), HOME, NOW_MS) for number in range(MAX_VALUES_PER_GROUP + 1)]
    assert taken == [True] * MAX_VALUES_PER_GROUP + [False]
    assert kept.store(value(0, "b"), "another group", NOW_MS)


def test_one_group_does_not_fill_a_key() -> None:
    kept = Storage()
    taken = [kept.store(value(1, f"{n}"), HOME, NOW_MS) for n in range(MAX_VALUES_PER_KEY_AND_GROUP + 1)]
    assert taken == [True] * MAX_VALUES_PER_KEY_AND_GROUP + [False]


def test_of_a_full_key_the_group_that_has_most_gives_way_to_the_others() -> None:
    kept = Storage()
    for number in range(MAX_VALUES_PER_KEY):
        assert kept.store(value(1, f"{number}"), f"group {number % 3}", NOW_MS)
    taken = [kept.store(value(1, f"b{number}"), f"honest {number}", NOW_MS) for number in range(MAX_VALUES_PER_KEY)]
    assert sum(taken) == MAX_VALUES_PER_KEY - 3  # until all groups have one value each
    assert len(held(kept, 1)) == len(kept) == MAX_VALUES_PER_KEY


def test_what_is_told_of_a_key_is_a_choice_in_which_groups_have_turns() -> None:
    """Of a key that a few networks flood, whoever is alone in his is always told, and who asks what is his own."""
    kept = Storage(random.Random(0))
    for number in range(600):
        assert kept.store(value(1, f"{number}"), f"flood {number % 3}", NOW_MS)
    assert kept.store(value(1, "honest"), HOME, NOW_MS)
    for asks, count in (("honest", MAX_TOLD_VALUES), ("0", MAX_TOLD_VALUES), ("a reader", MAX_TOLD_VALUES)):
        told = {each.subkey for each in kept.told(value(1).key_id, NOW_MS, asks)}
        assert len(told) == count
        assert {"honest", asks} - {"a reader"} <= told
    assert kept.count(value(1).key_id, NOW_MS) == 601
    assert kept.count(value(1).key_id, SOON_MS) == kept.count(value(2).key_id, NOW_MS) == 0


def test_what_is_told_of_many_networks_falls_to_lot() -> None:
    kept = Storage(random.Random(0))
    for number in range(10 * MAX_TOLD_VALUES):
        assert kept.store(value(1, f"{number}"), f"group {number}", NOW_MS)
    told = {each.subkey for _ in range(100) for each in kept.told(value(1).key_id, NOW_MS, "a reader")}
    assert len(told) == 10 * MAX_TOLD_VALUES


def test_what_is_told_of_a_key_has_a_bound_in_bytes() -> None:
    kept = Storage()
    for number in range(60):
        assert kept.store(value(1, f"{number}", data=bytes(4096)), f"group {number}", NOW_MS)
    told = kept.told(value(1).key_id, NOW_MS, "59")
    assert sum(len(each.value) for each in told) == MAX_TOLD_BYTES
    assert "59" in {each.subkey for each in told}


def test_a_full_key_has_room_again_when_values_have_expired() -> None:
    kept = Storage()
    for number in range(MAX_VALUES_PER_KEY):
        assert kept.store(value(1, f"{number}"), f"group {number}", NOW_MS)
    newcomer = value(1, "newcomer", SOON_MS + 1)
    assert not kept.store(newcomer, HOME, NOW_MS)
    assert kept.store(newcomer, HOME, SOON_MS)


def test_when_all_is_full_the_group_with_most_gives_way() -> None:
    """Given one group that has filled what there is, then a newcomer of another gets in, and the group's own do not."""
    kept = Storage()
    large = bytes(MAX_BYTES // MAX_VALUES_PER_GROUP)
    number = 0
    while kept.store(value(number, f"{number}", data=large), HOME, NOW_MS):
        number += 1
    assert kept.store(value(1, "newcomer", data=large), "another group", NOW_MS)
    assert not kept.store(value(1, "one more", data=large), HOME, NOW_MS)
    assert held(kept, 0) == []
    assert kept.size_bytes <= MAX_BYTES


def test_counts_and_bounds_hold_whatever_comes_in_which_order() -> None:
    rng = random.Random(4)
    kept = Storage()
    now_ms = NOW_MS
    for _ in range(5_000):
        now_ms += rng.randrange(3)
        stored = value(rng.randrange(20), f"{rng.randrange(40)}", now_ms + rng.randrange(-5, 300))
        kept.store(stored, f"group {rng.randrange(5)}", now_ms)
    remaining = [each for key in range(20) for each in held(kept, key, now_ms)]
    assert len(remaining) == len(kept)
    assert all(each.expires_ms > now_ms for each in remaining)
    assert kept.size_bytes == sum(len(each.value) + storage._OVERHEAD_BYTES for each in remaining)
    assert len(kept._expiries) <= 2 * len(kept) + 64
