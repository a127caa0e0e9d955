"""What prompt lookup finds: what followed the same tokens when they came last."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from p2pnet.worker.speculation.lookup import NGRAMS, Lookup


@pytest.mark.parametrize(
    ("ids", "most", "drafts"),
    [
        ([], 4, ()),
        ([1], 4, ()),
        ([1, 2, 3, 4, 5], 4, ()),  # nothing came before
        ([1, 2, 9, 2], 4, ()),  # one token says too little
        ([1, 2, 7, 8, 9, 1, 2], 3, (7, 8, 9)),
        ([1, 2, 7, 8, 9, 1, 2], 9, (7, 8, 9, 1, 2, 7, 8, 9, 1)),  # to the end, and on in circles
        ([1, 2, 7, 1, 2, 8, 1, 2], 1, (8,)),  # the last place counts
        ([5, 1, 2, 7, 6, 1, 2, 8, 5, 1, 2], 1, (7,)),  # unless another has more in common
        ([4, 5, 1, 2, 7, 3, 5, 1, 2, 8, 4, 5, 1, 2], 1, (7,)),
        ([6, 6, 6], 3, (6, 6, 6)),
        ([1, 2, 7, 1, 2], 0, ()),
    ],
)
def test_what_followed_before_is_drafted(ids: list[int], most: int, drafts: Sequence[int]) -> None:
    assert Lookup().drafts(ids, most) == drafts


@pytest.mark.parametrize("seed", range(20))
def test_whatever_comes_token_by_token_it_is_as_searched_from_the_start(seed: int) -> None:
    rng = random.Random(seed)
    lookup, ids = Lookup(), [rng.randrange(4) for _ in range(rng.randrange(6))]
    for _ in range(60):
        ids += [rng.randrange(4) for _ in range(rng.randint(1, 3))]
        assert lookup.drafts(ids, 5) == searched(ids, 5)


def searched(ids: list[int], most: int) -> tuple[int, ...]:
    for size in NGRAMS:
        for start in reversed(range(len(ids) - size)):
            if ids[start : start + size] == ids[-size:]:
                found = list(ids[start + size :])
                return tuple((found * most)[:most])
    return ()
