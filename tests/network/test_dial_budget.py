"""How often a place is dialled that strangers name: seldom, whoever names it; and never too seldom for who is there."""

from __future__ import annotations

from itertools import pairwise

from p2pnet.network.dial_addresses import Place
from p2pnet.network.dial_budget import (
    FIRST_PAUSE_S,
    FREE_TRIES,
    MAX_PAUSE_S,
    MAX_PLACES,
    NETWORK_PER_MINUTE,
    NEW_PEERS_PER_MINUTE,
    PROVEN_S,
    DialBudget,
)
from p2pnet.rate_limit import BURST_S

HOME = "192.168.1.1"
"""No network of which all dials are counted together."""


def dials(budget: DialBudget, seconds: int, host: str = HOME, began_s: int = 0) -> list[int]:
    """The seconds at which a place is dialled that a new stranger names in each."""
    return [
        second
        for second in range(began_s, began_s + seconds)
        if budget.admitted(f"stranger {second}", [Place(host, 80, f"stranger {second}")], second)
    ]


def test_a_place_is_dialled_more_and_more_seldom_whoever_names_it() -> None:
    assert dials(DialBudget(), 1000) == [0, 1, 2, 3, 8, 18, 38, 78, 158, 318, 618, 918]


def test_pauses_double_up_to_a_limit_and_are_forgotten_after_it() -> None:
    budget = DialBudget()
    seconds = dials(budget, 2000)
    pauses = [later - earlier for earlier, later in pairwise(seconds)]
    assert pauses[FREE_TRIES - 1] == FIRST_PAUSE_S
    assert max(pauses) == MAX_PAUSE_S
    later_s = 2000 + 3 * int(MAX_PAUSE_S)
    assert dials(budget, 4, began_s=later_s) == [later_s + second for second in range(4)]


def test_three_hundred_at_once_are_few() -> None:
    budget = DialBudget()
    admitted = [budget.admitted(f"{n}", [Place(HOME, 80, f"{n}")], 0.0) for n in range(300)]
    assert sum(map(bool, admitted)) == FREE_TRIES


def test_one_place_in_the_way_of_none_of_the_others() -> None:
    """A peer is dialled where it may be, though it names a place that is dialled too often already."""
    budget = DialBudget()
    dials(budget, 4)
    free, spent = Place(HOME, 1, "a"), Place(HOME, 80, "a")
    assert budget.admitted("a", [spent, free], 4.0) == {free}


def test_who_was_found_there_is_dialled_at_any_time_and_nobody_else() -> None:
    """Given a worker that was connected, and strangers who name its address, then it is dialled as often as it takes,
    for ten minutes after it was last seen."""
    budget = DialBudget()
    worker = Place(HOME, 80, "worker")
    budget.note_there(worker, 0.0)
    seen_s = 100.0
    dials(budget, int(seen_s))
    budget.note_there(worker, seen_s)
    for tenth in range(int(PROVEN_S) * 10):
        assert budget.admitted("worker", [worker], seen_s + tenth / 10) == {worker}
    assert budget.admitted("liar", [Place(HOME, 80, "liar")], seen_s) == set()
    late = [budget.admitted("worker", [worker], seen_s + PROVEN_S + second) for second in range(6)]
    assert sum(map(bool, late)) == FREE_TRIES, "long ago: as any other"


def test_who_answers_elsewhere_may_not_name_a_victim_for_that() -> None:
    budget = DialBudget()
    tried = 0
    for number in range(300):
        peer = f"peer {number}"
        own, victim = Place("192.168.7.7", number + 1, peer), Place(HOME, 80, peer)
        tried += victim in budget.admitted(peer, [own, victim], number / 10)
        budget.note_connected(peer, number / 10)
        budget.note_there(own, number / 10)
    assert tried <= FREE_TRIES + 3


def test_a_network_has_a_limit_of_its_own() -> None:
    """Given strangers who name all ports of all hosts of a network, then it is dialled once in a second."""
    budget = DialBudget()
    at_once = sum(bool(budget.admitted(f"{n}", [Place(f"8.8.8.{n % 256}", n + 1, f"{n}")], 0.0)) for n in range(1000))
    assert at_once == NETWORK_PER_MINUTE / 60 * BURST_S
    assert budget.admitted("other", [Place("8.8.9.1", 1, "other")], 0.0), "others are dialled meanwhile"
    later = sum(bool(budget.admitted(f"{n}", [Place("8.8.8.8", n, f"{n}")], 100.0 + n / 10)) for n in range(2000, 2600))
    assert later <= 60 + at_once


def test_so_does_one_of_ipv6_and_of_ipv4_within_it() -> None:
    budget = DialBudget()
    hosts = [f"2600:1:2:{n:x}::1" for n in range(100)]
    assert sum(bool(budget.admitted(host, [Place(host, 1, host)], 0.0)) for host in hosts) == 10


def test_a_rack_of_workers_that_answer_is_dialled_as_it_comes() -> None:
    """Given two hundred workers in one network, each found a second after it was dialled, then all are dialled within
    20 s, and none of it counts against the next."""
    budget = DialBudget()
    waiting = [Place(f"8.8.8.{n}", 31337, f"worker {n}") for n in range(200)]
    for second in range(20):
        asked = [place for place in waiting if budget.admitted(place.peer_id, [place], float(second))]
        for place in asked:
            budget.note_connected(place.peer_id, second + 0.9)
            budget.note_there(place, second + 0.9)
        waiting = [place for place in waiting if place not in asked]
    assert waiting == []


def test_strangers_are_dialled_at_a_rate_and_those_who_answered_are_none() -> None:
    budget = DialBudget()
    budget.note_connected("old", 0.0)
    admitted = [
        bool(budget.admitted(f"{n}", [Place(f"10.{n // 250}.0.{n % 250}", 1, f"{n}")], 0.0)) for n in range(2000)
    ]
    assert sum(admitted) == NEW_PEERS_PER_MINUTE / 60 * BURST_S
    assert budget.admitted("new", [Place("10.99.0.1", 1, "new")], 0.0) == set()
    assert budget.admitted("old", [Place("10.99.0.1", 1, "old")], 0.0)
    assert budget.admitted("new", [Place("10.99.0.1", 1, "new")], 1.0)


def test_strangers_who_are_said_to_be_behind_a_relay_are_dialled_at_that_rate_too() -> None:
    """A relay that is there is asked for each of them; those who once answered are asked for at any time."""
    budget = DialBudget()
    relay = Place("8.8.8.8", 31337, "relay")
    budget.note_there(relay, 0.0)
    budget.note_connected("old", 0.0)
    asked = [bool(budget.admitted(f"{n}", [relay], 0.0)) for n in range(2000)]
    assert sum(asked) == NEW_PEERS_PER_MINUTE / 60 * BURST_S
    assert budget.admitted("old", [relay], 0.0) == budget.admitted("relay", [relay], 0.0) == {relay}


def test_thousands_that_answer_are_no_strangers() -> None:
    budget = DialBudget()
    for number in range(3000):
        place = Place(f"10.{number // 250}.0.{number % 250}", 1, f"{number}")
        assert budget.admitted(place.peer_id, [place], 0.0)
        budget.note_connected(place.peer_id, 0.0)


def test_the_tables_are_bounded() -> None:
    budget = DialBudget()
    for number in range(3 * MAX_PLACES):
        place = Place(f"10.{number // 65000}.{number // 250 % 250}.{number % 250}", 1, f"{number}")
        now_s = number / 20
        budget.admitted(place.peer_id, [place], now_s)
        budget.note_connected(place.peer_id, now_s)
        budget.note_there(place, now_s)
    for table in (budget._tries, budget._proven_s, budget._peers):
        assert len(table) <= MAX_PLACES
