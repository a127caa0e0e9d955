"""How the workers of one model spread over keys: who goes where, and whether readers find all of them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from p2pnet.model_shards import (
    FULL_SHARD,
    MAX_LEVEL,
    ROOMY_SHARD,
    SPARSE_SHARD,
    Placing,
    Sampling,
    shard_key,
    shard_on,
)


def spread(workers: int) -> dict[str, list[str]]:
    """Workers that come one after the other, each by its own rules: who lies under which key in the end."""
    under: defaultdict[str, list[str]] = defaultdict(list)
    for number in range(workers):
        placing = Placing(f"peer {number}")
        while placing.goes_down("m", lambda key: len(under[key])):
            pass
        under[placing.key("m")].append(f"peer {number}")
    return under


@pytest.mark.parametrize(
    ("level", "shard", "key"),
    [(0, 0, "p2pnet/1/model/org/m"), (1, 1, "p2pnet/1/shard/1/1/org/m"), (10, 1023, "p2pnet/1/shard/10/1023/org/m")],
)
def test_a_key_says_level_and_shard_and_level_0_is_the_models_own(level: int, shard: int, key: str) -> None:
    assert shard_key("org/m", level, shard) == key


def test_a_workers_shard_on_one_level_lies_within_that_on_the_next() -> None:
    for number in range(100):
        shards = [shard_on(level, f"peer {number}") for level in range(MAX_LEVEL + 1)]
        assert all(lower % (1 << level) == higher for level, (higher, lower) in enumerate(pairwise(shards)))


@pytest.mark.parametrize("workers", [1, FULL_SHARD, FULL_SHARD + 1, 3_000, 10_000])
def test_no_key_has_more_than_it_should_and_higher_levels_are_full(workers: int) -> None:
    under = spread(workers)
    sizes = Counter({key: len(peers) for key, peers in under.items() if peers})
    assert sizes.total() == workers
    assert max(sizes.values()) <= FULL_SHARD
    assert sizes["p2pnet/1/model/m"] == min(workers, FULL_SHARD)


@pytest.mark.parametrize("workers", [10, 600, 3_000, 10_000])
def test_readers_find_by_themselves_how_many_keys_there_are_and_all_of_them_find_everybody(workers: int) -> None:
    """What was read lately counts: where the lowest level has few, a reader looks there and above in turn."""
    under, rng = spread(workers), random.Random(1)
    seen: set[str] = set()
    for _ in range(300):
        sampling = Sampling(rng.random())
        looks: list[list[str]] = []
        for _ in range(8):
            looks.append(sampling.keys("m"))
            sampling.note(len(under.get(looks[-1][0], ())))
        found = {peer for keys in looks[-2:] for key in keys for peer in under.get(key, ())}
        assert min(workers, SPARSE_SHARD) <= len(found) <= 4 * FULL_SHARD
        seen |= found
    assert len(seen) > 0.98 * workers


def test_a_reader_comes_back_up_when_the_workers_have_gone() -> None:
    sampling = Sampling(0.7)
    for _ in range(3):
        sampling.note(FULL_SHARD)
    assert sampling.depth == 3
    for held, depth in ((SPARSE_SHARD, 3), (SPARSE_SHARD - 1, 2), (0, 1), (0, 0), (0, 0)):
        sampling.note(held)
        assert sampling.depth == depth


def test_neither_goes_below_the_lowest_level() -> None:
    sampling, placing = Sampling(0.99), Placing("peer")
    for _ in range(2 * MAX_LEVEL):
        sampling.note(FULL_SHARD)
        placing.goes_down("m", lambda _: FULL_SHARD)
    assert sampling.depth == placing.level("m") == MAX_LEVEL


def test_who_has_a_place_keeps_it_until_it_is_doubted() -> None:
    placing = Placing("peer")
    assert not placing.goes_down("m", lambda _: ROOMY_SHARD)
    assert not placing.goes_down("m", lambda _: FULL_SHARD)
    placing.doubt()
    assert placing.goes_down("m", lambda _: FULL_SHARD)
    assert placing.key_above("m") == "p2pnet/1/model/m"
    placing.keep({"other"})
    assert (placing.key("m"), placing.key_above("m")) == ("p2pnet/1/model/m", None)
