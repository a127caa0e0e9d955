"""Which layers a machine takes, and when it leaves them for others: tables."""

from __future__ import annotations

import random

import pytest

from p2pnet.worker.placement.choosing import (
    GAIN,
    MAX_CLAIM_MS,
    Post,
    Span,
    believed,
    best_span,
    better_span,
    rates_of,
    seen_by,
)

LAYERS = 12


def posts(*stages: tuple[str, int, int] | tuple[str, int, int, float]) -> list[Post]:
    return [Post(*stage) for stage in stages]


TAKEN: dict[str, tuple[list[Post], int, Span]] = {
    "nobody is there": ([], 5, (0, 5)),
    "more than the model has": ([], 40, (0, 12)),
    "what is left at the end": (posts(("a", 0, 7)), 5, (7, 12)),
    "what is left, and where it overlaps": (posts(("a", 0, 8)), 6, (6, 12)),
    "a gap in the middle": (posts(("a", 0, 4), ("b", 8, 12)), 4, (4, 8)),
    "a gap that is larger": (posts(("a", 0, 3), ("b", 9, 12)), 4, (3, 7)),
    "the larger of two gaps": (posts(("a", 1, 7), ("b", 10, 12)), 3, (7, 10)),
    "a gap, though others are slow": (posts(("a", 0, 6, 900.0), ("b", 6, 11, 10.0)), 3, (9, 12)),
    "of gaps the one beside what is slow": (posts(("a", 1, 6, 10.0), ("b", 6, 11, 900.0)), 2, (10, 12)),
    "the slower half": (posts(("a", 0, 6, 50.0), ("b", 6, 12, 80.0)), 6, (6, 12)),
    "the half with fewer machines": (posts(("a", 0, 6), ("b", 0, 6), ("c", 6, 12)), 6, (6, 12)),
    "many slow ones beside a fast one": (
        posts(("a", 0, 6, 20.0), ("b", 6, 12, 100.0), ("c", 6, 12, 100.0), ("d", 6, 12, 100.0)),
        6,
        (6, 12),
    ),
    "the half that is crowded": ([Post("a", 0, 6, 50.0, has_room=False), Post("b", 6, 12, 60.0)], 6, (0, 6)),
    "what nobody loads yet": ([Post("a", 0, 6, is_ready=False)], 6, (6, 12)),
    "what is not measured counts as slow": (posts(("a", 0, 6, 50.0), ("b", 6, 12)), 6, (6, 12)),
    "layers that are too many": (posts(("a", 0, 13)), 6, (0, 6)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_layers_that_lack_machines_most_are_taken(name: str) -> None:
    known, length, expected = TAKEN[name]
    assert best_span(known, LAYERS, length) == expected


OWN = Post("own", 0, 6, 50.0)
MOVED: dict[str, tuple[Post, list[Post], Span | None]] = {
    "alone": (OWN, [], None),
    "its half has nobody else": (OWN, posts(("a", 6, 12, 500.0)), None),
    "its half has nobody else, and the other is missing": (OWN, [], None),
    "two have the same half, and the other is missing": (OWN, posts(("a", 0, 6, 50.0)), (6, 12)),
    "the other half is slower, but not by much": (OWN, posts(("a", 0, 6, 50.0), ("b", 6, 12, 45.0)), None),
    "the other half is a third as fast": (
        OWN,
        posts(("a", 0, 6, 50.0), ("b", 0, 6, 50.0), ("c", 6, 12, 50.0)),
        (6, 12),
    ),
    "it would be as slow where it comes from": (OWN, posts(("a", 0, 6, 150.0), ("b", 6, 12, 100.0)), None),
    "the only other one there is still loading": (
        OWN,
        [Post("a", 0, 6, 50.0, is_ready=False), *posts(("b", 6, 12, 500.0))],
        None,
    ),
    "what is missing is being loaded": (
        OWN,
        [*posts(("a", 0, 6, 50.0)), Post("b", 6, 12, 50.0, is_ready=False)],
        None,
    ),
    "most of the gap is better than none of it": (OWN, posts(("a", 0, 3), ("b", 3, 5)), (5, 11)),
    "as many would be missing": (OWN, posts(("a", 6, 11)), None),
    "one layer on, to close the gap": (OWN, posts(("a", 0, 2), ("b", 7, 12)), (1, 7)),
    "there are two slow places, and it can help at one": (
        Post("own", 4, 8, 50.0),
        posts(("a", 0, 4, 200.0), ("b", 4, 8, 20.0), ("c", 8, 12, 200.0)),
        (0, 4),
    ),
    "more room where it is not needed": (Post("own", 0, 12, 50.0), posts(("a", 0, 6)), None),
}


@pytest.mark.parametrize("name", MOVED)
def test_a_stage_moves_where_that_helps_the_whole_chain(name: str) -> None:
    own, others, expected = MOVED[name]
    assert better_span(own, others, LAYERS) == expected


def test_a_stage_moves_from_the_stated_gain_on() -> None:
    """Two of three are in the first half. After the move each half has the rate of two, or of one: 1 / `step`."""
    for step_ms, is_moved in ((50.0 / (GAIN - 0.99), True), (50.0 / (GAIN - 1.01), False)):
        own = Post("own", 0, 6, step_ms)
        assert (better_span(own, posts(("a", 0, 6, 20.0), ("b", 6, 12, 50.0)), LAYERS) is not None) is is_moved


def drawn(rng: random.Random, stages: int, layers: int) -> list[Post]:
    found = []
    for number in range(stages):
        length = rng.randint(1, layers)
        first = rng.randint(0, layers - length)
        found.append(Post(f"peer{number:03}", first, first + length, rng.uniform(5.0, 200.0)))
    return found


def test_moves_one_after_the_other_never_break_a_chain_and_come_to_rest() -> None:
    """Random networks. Each move leaves at least as many layers served, also while it is under way."""
    for seed in range(100):
        rng = random.Random(seed)
        layers = rng.randint(2, 24)
        stages = drawn(rng, rng.randint(1, 12), layers)
        for _ in range(200):
            moves = [
                (own, span) for own in stages if (span := better_span(own, [s for s in stages if s != own], layers))
            ]
            if not moves:
                break
            own, span = rng.choice(moves)
            before = rates_of(stages, layers)
            stages.remove(own)
            if 0.0 not in before:
                assert 0.0 not in rates_of(stages, layers)
            stages.append(Post(own.peer_id, *span, own.step_ms))
            after = rates_of(stages, layers)
            assert after.count(0.0) <= before.count(0.0)
        else:
            raise AssertionError(f"they still move: seed {seed}")


def test_machines_that_come_one_after_the_other_make_a_whole_chain() -> None:
    """As soon as there are as many layers as the model has, but for what overlaps."""
    for seed in range(100):
        rng = random.Random(seed)
        stages: list[Post] = []
        while 0.0 in (rates := rates_of(stages, 24)):
            span = best_span(stages, 24, rng.randint(1, 12))
            assert rates[span[0] : span[1]].count(0.0) == min(span[1] - span[0], _longest_gap(rates))
            stages.append(Post(str(len(stages)), *span, 50.0))


def _longest_gap(rates: list[float]) -> int:
    return max(len(run) for run in "".join("x" if rate else "." for rate in rates).split("x"))


def claim(peer_id: str, since_ms: int) -> Post:
    return Post(peer_id, 0, 6, is_ready=False, since_ms=since_ms)


def test_of_two_that_claim_the_same_layers_the_later_one_looks_again() -> None:
    first, second, twin, ready = claim("b", 100), claim("a", 200), claim("c", 100), Post("d", 6, 12, since_ms=900)
    known = [first, second, twin, ready]
    assert seen_by(first, known) == [ready]
    assert seen_by(twin, known) == [first, ready]
    assert seen_by(second, known) == [first, twin, ready]
    assert seen_by(first, known, [Post("a", 6, 12), claim("c", 50)]) == [Post("a", 6, 12), ready]
    assert best_span(seen_by(second, [first, second]), LAYERS, 6) == (6, 12)


def test_a_claim_is_not_believed_for_ever() -> None:
    known = [claim("a", 1000), Post("b", 0, 6, since_ms=1000)]
    assert believed(known, 1000 + MAX_CLAIM_MS) == known
    assert believed(known, 1001 + MAX_CLAIM_MS) == known[1:]
