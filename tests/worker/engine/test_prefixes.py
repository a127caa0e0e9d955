"""Kept prefixes: what two prompts have in common, what of it may be reused, and which one goes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pnet.worker.engine.prefixes import (
    MAX_PREFIXES,
    REUSE_TOKENS,
    Prefix,
    PrefixCache,
    common_length,
    id_array,
    reusable,
)


@dataclass(eq=False)
class Box:
    capacity: int = 64


def prefix(ids: Sequence[int], capacity: int = 64) -> Prefix:
    return Prefix(id_array(ids), Box(capacity))


A = list(range(100))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param([], [], 0, id="nothing"),
        pytest.param([], A, 0, id="nothing and something"),
        pytest.param([1], [1], 1, id="one"),
        pytest.param([1], [2], 0, id="another one"),
        pytest.param(A, A, 100, id="the same"),
        pytest.param(A, A[:40], 40, id="one contains the other"),
        pytest.param(A, A[:20], 20, id="less than a block of it"),
        pytest.param(A, [*A[:50], 7, *A[51:]], 50, id="different in the middle"),
        pytest.param(A, [*A[:31], 7, *A[32:]], 31, id="different at the end of a block"),
        pytest.param(A, [*A[:32], 7, *A[33:]], 32, id="different after a block"),
        pytest.param(A, [7, *A[1:]], 0, id="different at once"),
    ],
)
def test_common_length(one: list[int], other: list[int], expected: int) -> None:
    assert common_length(id_array(one), id_array(other)) == expected
    assert common_length(id_array(other), id_array(one)) == expected


@given(st.lists(st.integers(0, 1), max_size=80), st.lists(st.integers(0, 1), max_size=80), st.integers(0, 80))
def test_common_length_is_what_it_says(one: list[int], tail: list[int], shared: int) -> None:
    other = [*one[:shared], *tail]
    common = common_length(id_array(one), id_array(other))
    assert one[:common] == other[:common]
    assert common in (len(one), len(other)) or one[common] != other[common]


def test_the_largest_token_id() -> None:
    ids = [(1 << 31) - 1] * 40
    assert common_length(id_array(ids), id_array(ids)) == 40


@pytest.mark.parametrize(
    ("common", "prompt_length", "expected"),
    [(0, 10, 0), (31, 100, 0), (32, 100, 32), (63, 100, 32), (64, 64, 32), (64, 65, 64), (1, 1, 0), (33, 33, 32)],
)
def test_reusable(common: int, prompt_length: int, expected: int) -> None:
    assert REUSE_TOKENS == 32
    assert reusable(common, prompt_length) == expected


def test_the_oldest_goes_first_and_use_makes_young() -> None:
    cache = PrefixCache()
    prefixes = [prefix([number] * 40) for number in range(3)]
    for each in prefixes:
        assert cache.put(each) == []
    assert cache.oldest() is prefixes[0]
    cache.touch(prefixes[0])
    assert cache.oldest() is prefixes[1]
    assert cache.take(prefixes[1]) is prefixes[1].kv
    assert list(cache) == [prefixes[2], prefixes[0]]


def test_what_is_contained_is_not_kept_twice() -> None:
    cache = PrefixCache()
    short, long, other = prefix(A[:40]), prefix(A), prefix([7] * 40)
    cache.put(short)
    cache.put(other)
    assert cache.put(long) == [short.kv]
    again = prefix(A[:60])
    assert cache.put(again) == [again.kv]
    same = prefix(A)
    assert cache.put(same) == [same.kv]
    assert list(cache) == [other, long]


def test_there_is_a_limit() -> None:
    cache = PrefixCache()
    prefixes = [prefix([number] * 40) for number in range(MAX_PREFIXES + 2)]
    dropped = [kv for each in prefixes for kv in cache.put(each)]
    assert dropped == [prefixes[0].kv, prefixes[1].kv]
    assert len(cache) == MAX_PREFIXES


def test_an_empty_cache() -> None:
    cache = PrefixCache()
    assert (len(cache), cache.tokens, cache.oldest()) == (0, 0, None)


def test_its_size_may_be_asked_while_it_changes() -> None:
    """As the event loop does, while the engine's thread goes on."""
    cache = PrefixCache()

    class Busy(Box):
        @property  # type: ignore[override]
        def capacity(self) -> int:
            cache.put(prefix([len(cache)] * 40, 1))
            return 64

        @capacity.setter
        def capacity(self, value: int) -> None: ...

    cache.put(Prefix(id_array([1000] * 40), Busy()))
    cache.put(prefix([1001] * 40, 128))
    assert cache.tokens == 192
