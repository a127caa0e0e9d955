"""Which chain is chosen: a table."""

from __future__ import annotations

import random

import pytest

from p2pnet.spans import missing
from p2pnet.worker.chains.choosing import Leg, Offer, choose, lanes, standbys


def offers(*spans: tuple[str, int, int] | tuple[str, int, int, float]) -> list[Offer]:
    return [Offer(*span) for span in spans]


TABLE: dict[str, tuple[list[Offer], set[str], list[tuple[str, int, int]] | None]] = {
    "nobody": ([], set(), None),
    "one has all": (offers(("a", 0, 12)), set(), [("a", 0, 12)]),
    "two halves": (offers(("b", 6, 12), ("a", 0, 6)), set(), [("a", 0, 6), ("b", 6, 12)]),
    "a gap": (offers(("a", 0, 5), ("b", 6, 12)), set(), None),
    "the last is missing": (offers(("a", 0, 11)), set(), None),
    "they overlap": (offers(("a", 0, 8), ("b", 4, 12)), set(), [("a", 0, 8), ("b", 8, 12)]),
    "the faster of two": (
        offers(("a", 0, 12, 500.0), ("b", 0, 12, 50.0)),
        set(),
        [("b", 0, 12)],
    ),
    "two that are fast, not one that is slow": (
        offers(("slow", 0, 12, 900.0), ("a", 0, 6, 40.0), ("b", 6, 12, 40.0)),
        set(),
        [("a", 0, 6), ("b", 6, 12)],
    ),
    "one rather than two that are as fast": (
        offers(("one", 0, 12, 60.0), ("a", 0, 6, 30.0), ("b", 6, 12, 30.0)),
        set(),
        [("one", 0, 12)],
    ),
    "the later part of a slow stage": (
        offers(("a", 0, 10, 50.0), ("b", 2, 12, 500.0)),
        set(),
        [("a", 0, 10), ("b", 10, 12)],
    ),
    "a slow stage for no more than is missing": (
        offers(("slow", 0, 8, 800.0), ("a", 0, 6, 30.0), ("b", 7, 12, 30.0)),
        set(),
        [("a", 0, 6), ("slow", 6, 7), ("b", 7, 12)],
    ),
    "a slow stage for its first layers only": (
        offers(("slow", 0, 8, 800.0), ("b", 4, 12, 40.0)),
        set(),
        [("slow", 0, 4), ("b", 4, 12)],
    ),
    "no stage twice": (
        offers(("slow", 0, 12, 1200.0), ("b", 5, 7, 1.0)),
        set(),
        [("slow", 0, 12)],
    ),
    "one that has room": ([Offer("a", 0, 12, 50.0, False), Offer("b", 0, 12, 70.0)], set(), [("b", 0, 12)]),
    "one that is crowded, but fast": (
        [Offer("a", 0, 12, 50.0, False), Offer("b", 0, 12, 300.0)],
        set(),
        [("a", 0, 12)],
    ),
    "one that is avoided": (offers(("a", 0, 12), ("b", 0, 12, 900.0)), {"a"}, [("b", 0, 12)]),
    "all that there is is avoided": (offers(("a", 0, 12)), {"a"}, None),
    "more layers than the model has": (offers(("a", 0, 13)), set(), None),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_chain_that_takes_least_time_is_chosen(name: str) -> None:
    known, avoid, expected = TABLE[name]
    legs = None if expected is None else tuple(Leg(*leg) for leg in expected)
    assert choose(known, 12, avoid, random.Random(1)) == legs


NEAR, FAR = {"a": 4.0, "b": 4.0, "c": 4.0}, {"a": 400.0, "b": 400.0}


@pytest.mark.parametrize(
    ("known", "round_trips_ms", "expected"),
    [
        (offers(("a", 0, 12, 50.0), ("b", 0, 12, 90.0)), {}, "a"),
        (offers(("a", 0, 12, 50.0), ("b", 0, 12, 90.0)), {"a": 200.0, "b": 10.0}, "b"),
        (offers(("a", 0, 12, 50.0), ("b", 0, 12, 90.0)), {"a": 200.0}, "b"),
        (offers(("a", 0, 12, 50.0), ("b", 0, 12, 300.0)), {"a": 200.0}, "a"),
        (offers(("a", 0, 6, 20.0), ("b", 6, 12, 20.0), ("c", 0, 12, 60.0)), NEAR, "ab"),
        (offers(("a", 0, 6, 20.0), ("b", 6, 12, 20.0), ("c", 0, 12, 60.0)), FAR, "c"),
        (offers(("a", 0, 6, 20.0), ("b", 6, 12, 20.0)), FAR, "ab"),
    ],
)
def test_what_is_near_is_chosen_where_that_makes_up_for_its_computing(
    known: list[Offer], round_trips_ms: dict[str, float], expected: str
) -> None:
    for seed in range(20):
        legs = choose(known, 12, (), random.Random(seed), round_trips_ms)
        assert legs is not None
        assert "".join(leg.peer_id for leg in legs) == expected


def test_not_all_drivers_take_the_fastest_of_stages_that_are_nearly_alike() -> None:
    """And none takes one that is half as fast."""
    known = offers(("a", 0, 12, 100.0), ("b", 0, 12, 110.0), ("c", 0, 12, 200.0))
    chosen = [legs[0].peer_id for seed in range(200) if (legs := choose(known, 12, (), random.Random(seed)))]
    assert 20 < chosen.count("b") < 100
    assert chosen.count("c") == 0


def test_stages_that_are_alike_are_spread_among_drivers() -> None:
    alike = offers(*((name, 0, 12) for name in "abcd"))
    chosen = {choose(alike, 12, (), random.Random(seed)) for seed in range(50)}
    assert len(chosen) == 4


def test_a_random_network_has_a_chain_where_its_layers_are_covered_from_the_front() -> None:
    for seed in range(300):
        rng = random.Random(seed)
        known = [Offer(str(number), first := rng.randrange(12), rng.randint(first + 1, 12)) for number in range(8)]
        legs = choose(known, 12, (), rng)
        assert (legs is None) == bool(missing([(offer.first, offer.last) for offer in known], 12))
        if legs is not None:
            assert [leg.first for leg in legs] == [0, *(leg.last for leg in legs[:-1])]
            assert legs[-1].last == 12
            by_peer = {offer.peer_id: offer for offer in known}
            assert all(by_peer[leg.peer_id].first <= leg.first < leg.last <= by_peer[leg.peer_id].last for leg in legs)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([50.0], 1),
        ([50.0, 50.0], 2),
        ([50.0, 46.0, 55.0], 3),
        ([50.0, 5.0], 1),
        ([50.0, 25.0, 25.0], 2),
        ([50.0, 0.0], 2),
        ([0.0, 0.0, 0.0], 3),
    ],
)
def test_as_many_steps_are_under_way_as_keep_the_slowest_stage_at_work(times: list[float], expected: int) -> None:
    known = [Offer(str(number), number, number + 1, step_ms) for number, step_ms in enumerate(times)]
    legs = [Leg(str(number), number, number + 1) for number in range(len(times))]
    assert lanes(legs, known) == expected
    assert lanes(legs, []) == len(times)


@pytest.mark.parametrize(("row_ms", "expected"), [(0.0, 4), (100.0, 4), (400.0, 8), (1000.0, 20)])
def test_over_slow_lines_more_steps_are_under_way(row_ms: float, expected: int) -> None:
    known = [Offer(str(number), number, number + 1, 50.0) for number in range(4)]
    assert lanes([Leg(str(number), number, number + 1) for number in range(4)], known, row_ms) == expected


def test_a_stage_of_which_a_part_is_used_takes_a_part_of_its_time() -> None:
    known = offers(("a", 0, 8, 80.0), ("b", 0, 10, 100.0))
    assert lanes([Leg("a", 0, 8), Leg("b", 8, 10)], known) == 1
    assert lanes([Leg("a", 0, 4), Leg("b", 4, 8)], known) == 2


def test_a_part_of_a_chain_is_chosen_as_all_of_it_is() -> None:
    known = [Offer("a", 0, 12, 40.0), Offer("b", 4, 8, 1.0), Offer("c", 8, 12, 1.0), Offer("d", 2, 9, 1.0)]
    for span, avoid, legs in (
        ((4, 8), {"a"}, (Leg("d", 4, 8),)),
        ((4, 8), {"a", "d"}, (Leg("b", 4, 8),)),
        ((4, 12), {"a", "d"}, (Leg("b", 4, 8), Leg("c", 8, 12))),
        ((3, 8), {"a"}, (Leg("d", 3, 8),)),
        ((0, 4), {"a"}, None),
    ):
        assert choose(known, 12, avoid, random.Random(1), span=span) == legs


LEGS = (Leg("a", 0, 6), Leg("b", 6, 12))
STANDBYS: dict[str, tuple[list[Offer], set[str], set[tuple[str, int]]]] = {
    "nobody": ([], set(), set()),
    "one for each": ([Offer("c", 0, 6), Offer("d", 6, 12)], set(), {("c", 0), ("d", 6)}),
    "one that has more": ([Offer("c", 5, 12)], set(), {("c", 6)}),
    "one that has less": ([Offer("c", 0, 5), Offer("d", 7, 12)], set(), set()),
    "one that has all stands by for one": ([Offer("c", 0, 12)], set(), {("c", 0)}),
    "who can do either is left for whom nobody else can": (
        [Offer("c", 0, 12), Offer("d", 0, 6, 500.0)],
        set(),
        {("d", 0), ("c", 6)},
    ),
    "the fastest": ([Offer("c", 0, 6, 20.0), Offer("d", 0, 6, 10.0)], set(), {("d", 0)}),
    "one that is full": ([Offer("c", 0, 6, has_room=False)], set(), set()),
    "one that is taken": ([Offer("a", 0, 6), Offer("c", 0, 6)], {"a", "c"}, set()),
}


@pytest.mark.parametrize("name", STANDBYS)
def test_who_stands_by_for_whom(name: str) -> None:
    known, taken, expected = STANDBYS[name]
    assert {(leg.peer_id, leg.first) for leg in standbys(LEGS, known, taken)} == expected
