"""Merit: as a table, and what invented identities gain, whatever they sign, as properties and in simulated queues."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.queueing.fair_queue import FairQueue, share_of
from gateway.standing.merit import (
    CONNECTIVITY_DECAY,
    HALF_LIFE_WEEKS,
    TRANSITIVITY_DECAY,
    Received,
    aged,
    merits,
)
from gateway.standing.turns import LEAST_MERIT, caller_for, priority_of
from tests.depth import examples, scaled

ON = 1 - TRANSITIVITY_DECAY
BEHIND_ONE = 1 - CONNECTIVITY_DECAY


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ({}, {}),
        ({"g": {"a": 5.0}}, {"a": 1.0}),
        ({"g": {"a": 30.0, "b": 10.0}}, {"a": 0.75, "b": 0.25}),
        ({"g": {"a": 1.0, "g": 9.0, "b": 0.0, "c": -5.0}}, {"a": 1.0}),
        ({"g": {"a": 1.0}, "a": {"b": 7.0}}, {"a": 1.0, "b": ON * BEHIND_ONE}),
        ({"g": {"a": 1.0, "b": 1.0}, "a": {"c": 1.0}, "b": {"c": 1.0}}, {"a": 0.5, "b": 0.5, "c": ON}),
        ({"g": {"a": 1.0, "b": 1.0}, "a": {"b": 1.0}}, {"a": 0.5, "b": 0.5 + ON / 2}),
        ({"g": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}}, {"a": 1.0, "b": ON * BEHIND_ONE}),
        ({"g": {"a": 1.0}, "a": {"g": 9.0}}, {"a": 1.0}),
        ({"g": {"a": 1.0}, "x": {"y": 10.0**9}, "y": {"x": 10.0**9}}, {"a": 1.0}),
    ],
    ids=[
        "nothing",
        "one giver",
        "in proportion",
        "what is no gift",
        "what a giver has received counts less, and less still behind one",
        "but not behind two",
        "on top of what was given here",
        "two steps and no more",
        "nobody's own",
        "two that only praise one another",
    ],
)
def test_merit(received: Received, expected: dict[str, float]) -> None:
    assert merits(received, "g") == pytest.approx(expected)


def test_what_was_given_long_ago_counts_less() -> None:
    assert [aged(100.0, weeks) for weeks in (-1.0, 0.0, HALF_LIFE_WEEKS, 2 * HALF_LIFE_WEEKS)] == [100, 100, 50, 25]


HONEST, INVENTED = [f"honest-{n}" for n in range(4)], [f"invented-{n}" for n in range(6)]
amounts = st.floats(min_value=0.1, max_value=1e9)
earned = st.dictionaries(
    st.sampled_from(["g", *HONEST]), st.dictionaries(st.sampled_from([*HONEST, *INVENTED]), amounts), min_size=1
)
claimed = st.dictionaries(
    st.sampled_from(INVENTED), st.dictionaries(st.sampled_from([*HONEST, *INVENTED, "g"]), amounts)
)


@settings(max_examples=examples(200))
@given(earned, claimed)
def test_whatever_invented_identities_sign_gains_them_half_of_what_they_gave(
    earned: dict[str, dict[str, float]], claimed: dict[str, dict[str, float]]
) -> None:
    without, with_claims = (merits(signed, "g") for signed in (earned, {**earned, **claimed}))
    raw = {**earned, **{peer: {} for peer in INVENTED}}
    walked = sum(_walks(raw, "g").get(peer, 0.0) for peer in INVENTED)
    assert sum(with_claims.get(peer, 0.0) for peer in INVENTED) <= (1 + ON) * walked + 1e-9
    for peer in HONEST:  # praise is free, and cannot be used against whoever gets it
        assert with_claims.get(peer, 0.0) >= without.get(peer, 0.0) - 1e-9


def _walks(received: Received, gateway: str) -> dict[str, float]:
    """How many walks get to each peer, before any decay of merit."""
    found: defaultdict[str, float] = defaultdict(float)
    total = sum(received.get(gateway, {}).values())
    for between, tokens in received.get(gateway, {}).items():
        found[between] += tokens / total
        of_it = sum(received.get(between, {}).values())
        for giver, given_tokens in received.get(between, {}).items():
            found[giver] += ON * tokens / total * given_tokens / of_it if giver not in (between, gateway) else 0.0
    return found


@pytest.mark.parametrize(
    ("merit", "priority"),
    [(0.0, 0), (LEAST_MERIT, 0), (3.99 * LEAST_MERIT, 0), (0.004, 1), (0.0159, 1), (0.016, 2), (0.064, 3), (1.0, 3)],
)
def test_priority_of_a_merit(merit: float, priority: int) -> None:
    assert priority_of(merit) == priority


@given(st.lists(st.floats(min_value=0, max_value=1), max_size=50))
def test_shares_are_no_more_than_merit(parts: list[float]) -> None:
    shares = sum(share_of(priority_of(merit)) / share_of(0) for merit in parts if priority_of(merit))
    assert shares <= sum(parts) / LEAST_MERIT * (1 + 1e-6)


def test_an_invented_identity_is_no_line_of_its_own() -> None:
    assert caller_for("192.0.2.1", "invented", {}).name == "192.0.2.1"
    assert caller_for("192.0.2.1", None, {"a": 1.0}).name == "192.0.2.1"
    assert (caller_for("192.0.2.1", "a", {"a": 0.02}).name, caller_for("192.0.2.1", "a", {"a": 0.02}).priority) == (
        "a",
        2,
    )


VOLUNTEERS = [f"volunteer-{n}" for n in range(20)]
RIDERS = [f"rider-{n}" for n in range(60)]
THOUSAND = [f"sybil-{n}" for n in range(1000)]
GIVEN = dict.fromkeys(VOLUNTEERS, 1000000.0)
SYBILS_GAVE = 40_000.0
"""Two thousandths of what all have given."""

ATTACKS: dict[str, Callable[[], Received]] = {
    "each gives a little": lambda: {"g": {**GIVEN, **dict.fromkeys(THOUSAND, SYBILS_GAVE / 1000)}},
    "one gives, and praises all others": lambda: {
        "g": {**GIVEN, "sybil-0": SYBILS_GAVE},
        "sybil-0": dict.fromkeys(THOUSAND[1:], 1000000000000.0),
    },
    "two give, and praise one": lambda: {
        "g": {**GIVEN, "sybil-0": SYBILS_GAVE / 2, "sybil-1": SYBILS_GAVE / 2},
        "sybil-0": {"sybil-2": 1e12},
        "sybil-1": {"sybil-2": 1e12},
    },
    "one gives, and they praise in a circle": lambda: {
        "g": {**GIVEN, "sybil-0": SYBILS_GAVE},
        **{THOUSAND[n]: {THOUSAND[(n + 1) % 1000]: 1e12} for n in range(1000)},
    },
    "none gives, and each praises each": lambda: {
        "g": GIVEN,
        **{peer: {other: 1e12 for other in THOUSAND[:50] if other != peer} for peer in THOUSAND[:50]},
    },
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_thousand_invented_identities_gain_no_more_than_a_hundredth_of_the_queue(attack: str) -> None:
    """All of them ask all the time, from one address, beside volunteers and free riders that do as well."""
    known = merits(ATTACKS[attack](), "g")

    def part(has_standing: bool) -> float:
        queue: FairQueue[tuple[str, int]] = FairQueue()
        for asker in (*VOLUNTEERS, *RIDERS, *THOUSAND):
            address = "198.51.100.1" if asker in THOUSAND else asker
            for number in range(8):
                queue.push((asker, number), caller_for(address, asker if has_standing else None, known), 1024)
        served = Counter(_served(queue) in THOUSAND_SET for _ in range(1000))
        return served[True] / served.total()

    assert part(has_standing=True) - part(has_standing=False) <= 0.01


THOUSAND_SET = frozenset(THOUSAND)


def _served(queue: FairQueue[tuple[str, int]]) -> str:
    first = next(queue.offers())
    queue.take(first)
    return first[0]


def test_volunteers_wait_half_as_long_as_free_riders_do() -> None:
    """Given a gateway at 95 % of what its workers can serve, when all ask for the same, then who has given waits at
    most half as long, and nobody waits for ever."""
    known = merits({"g": GIVEN}, "g")
    waited_s = _simulated(known, random.Random(7), scaled(ci=6_000, deep=60_000))
    assert mean(waited_s[True]) <= 0.5 * mean(waited_s[False])
    assert max(waited_s[False]) < 60 * mean(waited_s[False])


def _simulated(known: dict[str, float], rng: random.Random, requests: int, slots: int = 8) -> dict[bool, list[float]]:
    """The waits of volunteers and of others, in a queue with Poisson arrivals and exponential service of a second."""
    queue: FairQueue[tuple[str, int]] = FairQueue()
    arrived_s: dict[tuple[str, int], float] = {}
    waited_s: dict[bool, list[float]] = {True: [], False: []}
    ends_s: list[float] = []
    now_s = 0.0
    for number in range(requests):
        now_s += rng.expovariate(0.95 * slots)
        while ends_s and ends_s[0] <= now_s:
            ended_s = heapq.heappop(ends_s)
            if len(queue):
                _begin(queue, ended_s, arrived_s, waited_s, ends_s, rng)
        asker = rng.choice((*VOLUNTEERS, *RIDERS))
        item = (asker, number)
        arrived_s[item] = now_s
        queue.push(item, caller_for(asker, asker, known), 1024)
        if len(ends_s) < slots:
            _begin(queue, now_s, arrived_s, waited_s, ends_s, rng)
    return waited_s


def _begin(
    queue: FairQueue[tuple[str, int]],
    now_s: float,
    arrived_s: dict[tuple[str, int], float],
    waited_s: dict[bool, list[float]],
    ends_s: list[float],
    rng: random.Random,
) -> None:
    first = next(queue.offers())
    queue.take(first)
    waited_s[first[0] in GIVEN].append(now_s - arrived_s.pop(first))
    heapq.heappush(ends_s, now_s + rng.expovariate(1.0))
