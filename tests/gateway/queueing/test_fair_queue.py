"""The fair queue: its order as a table and against the published algorithm, its promises as properties."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.interface import Caller
from gateway.queueing.fair_queue import QUANTUM, FairQueue, share_of
from tests.depth import examples

Q = QUANTUM

Request = tuple[str, int, int]
"""A caller's name, which of its requests this is, and what it costs."""


def caller(name: str, priority: int = 0) -> Caller:
    return Caller(name, priority)


def fill(
    queue: FairQueue[Request], requests: Iterable[tuple[str, int]], priority: dict[str, int] | None = None
) -> None:
    """Push requests, given as caller and cost."""
    counts: Counter[str] = Counter()
    for name, cost in requests:
        queue.push((name, counts[name], cost), caller(name, (priority or {}).get(name, 0)), cost)
        counts[name] += 1


def drain(queue: FairQueue[Request], count: int | None = None) -> list[Request]:
    """Serve whoever is first, again and again."""
    served = []
    while len(queue) and len(served) != count:
        first = next(queue.offers())
        queue.take(first)
        served.append(first)
    return served


def names(requests: Iterable[Request]) -> str:
    return "".join(name for name, _, _ in requests)


@pytest.mark.parametrize(
    ("priority", "share"),
    [
        (0, Q),
        (1, 4 * Q),
        (2, 16 * Q),
        (3, 64 * Q),
        (4, 64 * Q),
        (10**30, 64 * Q),
        (-1, Q // 4),
        (-3, Q // 64),
        (-(10**30), Q // 64),
    ],
)
def test_share(priority: int, share: int) -> None:
    assert share_of(priority) == share


ORDERS: dict[str, tuple[list[tuple[str, int]], dict[str, int], str]] = {
    "one caller: as they came": ([("a", 5), ("a", 9 * Q), ("a", 1)], {}, "aaa"),
    "in turns": ([("a", Q)] * 4 + [("b", Q)] * 2, {}, "ababaa"),
    "by tokens, not by requests": ([("a", Q)] * 4 + [("b", Q // 2)] * 8, {}, "abbabbabbabb"),
    "what is too large for one round waits for its tokens": ([("a", 3 * Q), ("b", Q), ("b", Q), ("b", Q)], {}, "bbab"),
    "what is left of a share counts in the next round": ([("a", Q * 3 // 4)] * 4 + [("b", Q)] * 4, {}, "ababaabb"),
    "free requests cost a token": ([("a", 0)] * 2 + [("b", Q)] * 2, {}, "aabb"),
    "a higher priority is worth four times as much": (
        [("a", Q)] * 8 + [("b", Q)] * 8,
        {"b": 1},
        "bbbbabbbbaaaaaaa",
    ),
    "and goes first in each round": (
        [("a", Q)] * 3 + [("b", 1), ("c", 1), ("d", 1)],
        {"b": 1, "c": -1, "d": 3},
        "dbacaa",
    ),
}


@pytest.mark.parametrize("case", ORDERS)
def test_order(case: str) -> None:
    requests, priority, expected = ORDERS[case]
    queue: FairQueue[Request] = FairQueue()
    fill(queue, requests, priority)
    assert names(drain(queue)) == expected


def deficit_round_robin(requests: Sequence[tuple[str, int]]) -> list[str]:
    """As Shreedhar and Varghese wrote it down, round by round."""
    queues: dict[str, deque[int]] = {}
    for name, cost in requests:
        queues.setdefault(name, deque()).append(cost)
    active = deque(queues)
    deficits = dict.fromkeys(queues, 0)
    served = []
    while active:
        name = active.popleft()
        deficits[name] += QUANTUM
        while queues[name] and queues[name][0] <= deficits[name]:
            deficits[name] -= queues[name].popleft()
            served.append(name)
        if queues[name]:
            active.append(name)
    return served


COSTS = st.one_of(st.integers(1, 3 * Q), st.sampled_from([1, Q, 50 * Q]))
REQUESTS = st.lists(st.tuples(st.sampled_from("abcdef"), COSTS), max_size=60)
PRIORITIES = st.fixed_dictionaries({name: st.integers(-3, 3) for name in "abcdef"})


@given(requests=REQUESTS)
def test_it_is_deficit_round_robin(requests: list[tuple[str, int]]) -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, requests)
    assert list(names(drain(queue))) == deficit_round_robin(requests)


@given(requests=REQUESTS, priority=PRIORITIES)
def test_everybody_is_served_once_and_in_the_order_of_its_caller(
    requests: list[tuple[str, int]], priority: dict[str, int]
) -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, requests, priority)
    positions = {item: queue.position(item) for item in queue.offers()}
    served = drain(queue)
    assert Counter((name, cost) for name, _, cost in served) == Counter(requests)
    for name in "abcdef":
        assert [number for other, number, _ in served if other == name] == list(range(queue_length(requests, name)))
    assert [positions[item] for item in served] == list(range(1, len(requests) + 1))
    assert len(queue) == 0


def queue_length(requests: list[tuple[str, int]], name: str) -> int:
    return sum(other == name for other, _ in requests)


@given(
    costs=st.fixed_dictionaries({name: st.lists(COSTS, min_size=40, max_size=40) for name in "abc"}),
    priority=PRIORITIES,
)
def test_nobody_gets_more_than_its_share(costs: dict[str, list[int]], priority: dict[str, int]) -> None:
    """While all have something waiting, the tokens each was served differ, in rounds, by one quantum and the largest
    cost at most: Shreedhar and Varghese's theorem 2, weighted."""
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [(name, cost) for name in "abc" for cost in costs[name]], priority)
    spent = dict.fromkeys("abc", 0)
    waiting = Counter(dict.fromkeys("abc", 40))
    while all(waiting.values()):
        name, _, cost = drain(queue, 1)[0]
        spent[name] += cost
        waiting[name] -= 1
        rounds = {name: spent[name] / share_of(priority[name]) for name in "abc"}
        slack = {name: max(costs[name]) / share_of(priority[name]) for name in "abc"}
        for one in "abc":
            for other in "abc":
                assert rounds[one] - rounds[other] <= 1 + slack[one] + slack[other]


def test_who_comes_late_waits_for_one_round() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [(name, Q) for name in "abcd" for _ in range(50)])
    drain(queue, 81)
    queue.push(("e", 0, Q), caller("e"), Q)
    assert queue.position(("e", 0, Q)) <= 8
    assert names(drain(queue, 8)) == "bcdabcde"


def test_asking_again_at_once_is_no_advantage() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", Q)] * 40)
    served = ""
    for number in range(20):
        queue.push(("b", number, Q), caller("b"), Q)
        served += names(drain(queue, 2))
    assert served.count("a") == 20


def test_a_higher_priority_wins_but_starves_nobody() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [(name, Q) for name in "abcdefgh" for _ in range(40)] + [("z", Q)] * 400, {"z": 2})
    served = names(drain(queue, 240))
    assert served.count("z") == 160
    assert {served.count(name) for name in "abcdefgh"} == {10}


def test_who_comes_with_a_high_priority_is_first_in_the_next_round() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [(name, Q) for name in "abcdefgh" for _ in range(10)])
    drain(queue, 3)
    queue.push(("z", 0, Q), caller("z", 1), Q)
    assert queue.position(("z", 0, Q)) == 6


def test_the_urgent_come_first_and_in_order() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", Q), ("b", 1)], {"b": 3})
    for number in range(3):
        queue.push(("u", number, 100 * Q), caller("u", -3), 100 * Q, is_urgent=True)
    assert [queue.position(item) for item in queue.offers()] == [1, 2, 3, 4, 5]
    assert (len(queue), queue.in_turn, queue.waiting_of("u"), queue.waiting_of("a")) == (5, 2, 0, 1)
    assert drain(queue, 4) == [*(("u", number, 100 * Q) for number in range(3)), ("b", 0, 1)]


def test_what_cannot_be_placed_is_passed_over() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5), ("c", 6)])
    taken = []
    for item in queue.offers():
        if item[2] in (2, 4, 5, 6):
            queue.take(item)
            taken.append(item[2])
    assert taken == [6, 2, 4, 5]
    assert [cost for _, _, cost in drain(queue)] == [1, 3]


def test_many_that_cannot_be_placed_hide_nobody() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", 1)] * 100 + [("b", Q)] * 2 + [("c", 5 * Q)])
    assert names(islice(queue.offers(), 5)) == "abcab"


def test_what_was_passed_over_saves_up_no_burst() -> None:
    """ "a" has one request for which there is no slot, while "b" is served for a hundred rounds."""
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", Q)] + [("b", Q)] * 200)
    for item in islice(list(queue.offers()), 1, 101):
        queue.take(item)
    for number in range(1, 51):
        queue.push(("a", number, Q), caller("a"), Q)
    assert names(drain(queue, 6)) in ("aababa", "ababab", "abaaba")
    assert abs(names(drain(queue, 40)).count("a") - 20) <= 1


def test_what_was_passed_over_is_served_as_soon_as_it_can_be() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", Q), *[("a", Q)] * 10, *[("b", Q)] * 50])
    for item in [item for item in queue.offers() if item[:2] != ("a", 0)][:40]:
        queue.take(item)
    assert queue.position(("a", 0, Q)) == 1


def test_who_comes_after_an_old_one_was_served_is_no_older_for_it() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [("a", Q), *[("b", Q)] * 50])
    for item in [item for item in queue.offers() if item[0] == "b"][:40]:
        queue.take(item)
    queue.take(("a", 0, Q))
    for number in range(10):
        queue.push(("c", number, Q), caller("c"), Q)
    assert names(drain(queue, 6)) == "bcbcbc"


def test_offers_bear_every_change_between_two_of_them() -> None:
    queue: FairQueue[Request] = FairQueue()
    fill(queue, [(name, Q) for name in "abc" for _ in range(3)])
    queue.push(("u", 0, 1), caller("u"), 1, is_urgent=True)
    queue.push(("u", 1, 1), caller("u"), 1, is_urgent=True)
    offers = queue.offers()
    assert next(offers) == ("u", 0, 1)
    queue.remove(("u", 1, 1))
    assert next(offers) == ("a", 0, Q)
    queue.take(("b", 0, Q))
    queue.remove(("b", 1, Q))
    for number in range(3):
        queue.remove(("c", number, Q))
    queue.push(("c", 9, Q), caller("c"), Q)
    assert list(offers) == [("b", 2, Q), ("a", 1, Q), ("a", 2, Q)]
    assert {name for name, _, _ in drain(queue)} == set("uabc")


STEPS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "urgent", "take", "remove"]), st.sampled_from("abcdef"), COSTS),
    max_size=80,
)


@settings(max_examples=examples(200))
@given(steps=STEPS, chance=st.randoms(use_true_random=False))
def test_whatever_happens_each_is_there_once(steps: list[tuple[str, str, int]], chance: object) -> None:
    """Served out of order, gone, or come back: what is there is offered once, and its place is when it is served."""
    queue: FairQueue[Request] = FairQueue()
    there: list[Request] = []
    for number, (step, name, cost) in enumerate(steps):
        if step in ("push", "urgent"):
            item = (name, number, cost)
            queue.push(item, caller(name, ord(name) % 3), cost, is_urgent=step == "urgent")
            there.append(item)
        elif there:
            item = there.pop(chance.randrange(len(there)))  # type: ignore[attr-defined]
            queue.take(item) if step == "take" else queue.remove(item)
            assert item not in queue
        offered = list(queue.offers())
        assert sorted(offered) == sorted(there)
        assert len(queue) == len(there)
    positions = {item: queue.position(item) for item in there}
    assert [positions[item] for item in drain(queue)] == list(range(1, len(there) + 1))
