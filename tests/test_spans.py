"""Which layers nobody has, and how that is said: tables."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from p2pnet.spans import Span, in_words, missing

TABLE: dict[str, tuple[list[Span], tuple[Span, ...]]] = {
    "nobody": ([], ((0, 12),)),
    "one has all": ([(0, 12)], ()),
    "two halves, the later one first": ([(6, 12), (0, 6)], ()),
    "they overlap": ([(0, 8), (4, 12)], ()),
    "the first": ([(1, 12)], ((0, 1),)),
    "the last": ([(0, 11)], ((11, 12),)),
    "one between": ([(0, 5), (6, 12)], ((5, 6),)),
    "both ends": ([(2, 5), (4, 9)], ((0, 2), (9, 12))),
    "one that another has within its own": ([(0, 9), (2, 4)], ((9, 12),)),
    "more layers than there are": ([(0, 5), (6, 20), (20, 30)], ((5, 6),)),
    "none of the model's": ([(12, 20)], ((0, 12),)),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_missing(name: str) -> None:
    spans, gaps = TABLE[name]
    assert missing(spans, 12) == gaps


def test_each_layer_is_in_a_span_or_missing() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        spans = [(first := rng.randrange(12), rng.randint(first + 1, 14)) for _ in range(rng.randrange(6))]
        gaps = missing(spans, 12)
        for layer in range(12):
            assert any(first <= layer < last for first, last in gaps) != any(f <= layer < t for f, t in spans)
        assert all(before[1] < after[0] for before, after in pairwise(gaps))


@pytest.mark.parametrize(
    ("gaps", "words"),
    [
        ([(12, 18)], "layers 12 to 18 are missing"),
        ([(0, 2), (9, 12)], "layers 0 to 2 and 9 to 12 are missing"),
    ],
)
def test_what_is_missing_is_said(gaps: list[Span], words: str) -> None:
    assert in_words(gaps) == words
