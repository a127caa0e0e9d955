"""Routing among workers that have served and strangers, of which there may be any number; and the shares of each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import pytest

from gateway.peers.worker import BELIEVED_AT_FIRST, BELIEVED_GROWTH, Worker
from gateway.routing.able import MAX_LEAD
from gateway.routing.choose import SAMPLE, choose
from gateway.routing.recent_choices import MAX_MODELS, STRANGERS_TURN, WINDOW, RecentChoices
from gateway.routing.roster import Roster
from gateway.routing.route_query import RouteQuery
from p2pnet.messages import Load, Measure
from tests.stories import capability, peer

NOW_S = 1000.0
KEY = ("tiny", "generate")
QUERY = RouteQuery("tiny")
RECORD = capability(peer("a"))

Serve = Callable[[Worker, int], bool]
"""What becomes of a request at this worker after so many others: whether it has ended by now."""


def worker(name: str, subnet: str = "9.9.9", slots: int = 4) -> Worker:
    address = f"/ip4/{subnet}.1/tcp/1/p2p/{name}"
    return Worker(msgspec.structs.replace(RECORD, peer_id=name, addresses=(address,), slots=slots))


def tried(name: str, slots: int = 4, token_s: float = 0.05) -> Worker:
    made = worker(name, f"8.8.{sum(name.encode()) % 250}", slots)
    made.health.note_success()
    made.served_at_once = slots
    made.pace(KEY).first_token_s.note(token_s, NOW_S)
    made.pace(KEY).token_s.note(token_s, NOW_S)
    return made


def strangers(count: int, subnets: int) -> list[Worker]:
    return [
        worker(f"stranger {number}", f"9.{number % subnets // 250}.{number % subnets % 250}") for number in range(count)
    ]


def at_once(worker: Worker, number: int) -> bool:
    return True


def sent(workers: Sequence[Worker], requests: int, ends: Serve = at_once, **more: int) -> list[Worker]:
    """To whom so many requests went, one after another; those that do not end keep their slots."""
    roster, rng, recent = Roster(workers), random.Random(1), RecentChoices()
    chosen = []
    for number in range(requests):
        choice = choose(roster, QUERY, NOW_S + number, rng, recent=recent, **more)
        if choice is None:
            break
        recent.note(KEY, choice.worker)
        choice.worker.reserve(KEY, NOW_S + number)
        if ends(choice.worker, number):
            choice.worker.release(KEY)
        chosen.append(choice.worker)
    return chosen


# ---- while workers that have served can


@pytest.mark.parametrize(("count", "subnets"), [(1, 1), (20, 20), (2_000, 2_000), (17_000, 1_000)])
def test_strangers_have_one_request_in_eight_however_many_they_are(count: int, subnets: int) -> None:
    chosen = sent([*(tried(f"known {n}", slots=64) for n in range(4)), *strangers(count, subnets)], 400)
    is_stranger = [not each.is_tried for each in chosen]
    assert sum(is_stranger) == pytest.approx(400 / STRANGERS_TURN, abs=1)
    for begin in range(len(chosen) - STRANGERS_TURN):
        assert sum(is_stranger[begin : begin + STRANGERS_TURN]) <= 1


@pytest.mark.parametrize("subnets", [1, 3])
def test_strangers_of_one_subnet_are_tried_one_at_a_time(subnets: int) -> None:
    """Given strangers that take a request and never answer."""
    chosen = sent(
        [tried("known", slots=64), *strangers(200, subnets)], 200, ends=lambda worker, number: worker.is_tried
    )
    assert sum(not each.is_tried for each in chosen) == subnets


def test_a_stranger_behind_the_addresses_of_two_subnets_is_of_both() -> None:
    both = worker("both")
    both.record = msgspec.structs.replace(both.record, addresses=("/ip4/9.1.1.1/tcp/1", "/ip4/9.2.2.2/tcp/1"))
    others = [worker("one", "9.1.1"), worker("other", "9.2.2")]
    both.reserve(KEY, NOW_S)
    chosen = sent([tried("known", slots=64), both, *others], 100)
    assert {each.peer_id for each in chosen} == {"known"}


def test_each_subnet_has_its_turns_however_many_workers_it_has() -> None:
    crowd = [*strangers(1_000, 1), *(worker(f"alone {n}", f"7.7.{n}") for n in range(9))]
    chosen = Counter(each.peer_id for each in sent([tried("known", slots=64), *crowd], 1_600))
    alone = sum(chosen[f"alone {number}"] for number in range(9))
    assert alone == pytest.approx(0.9 * 200, abs=25)


def test_who_has_served_once_is_a_stranger_no_more() -> None:
    newcomers = strangers(3, 3)

    def serves(worker: Worker, number: int) -> bool:
        worker.health.note_success()
        worker.pace(KEY).token_s.note(0.05, NOW_S + number)
        return True

    chosen = sent([tried("known"), *newcomers], 200, ends=serves)
    assert all(each.is_tried for each in newcomers)
    assert min(Counter(each.peer_id for each in chosen[50:]).values()) > 20


def test_those_compared_are_workers_that_have_served() -> None:
    known = [tried(f"known {number}", slots=64) for number in range(3)]
    choice = choose(Roster([*known, *strangers(500, 500)]), QUERY, NOW_S, random.Random(1))
    assert choice is not None
    assert {each.worker for each in choice.considered} == {each.peer_id for each in known}


# ---- while they cannot


def full(worker: Worker) -> None:
    worker.note_full(KEY, NOW_S)


def cooling(worker: Worker) -> None:
    worker.health.note_failure(NOW_S, "peer_lost")


@pytest.mark.parametrize("trouble", [full, cooling])
def test_strangers_are_used_freely_where_nobody_that_has_served_can(trouble: Callable[[Worker], None]) -> None:
    known = tried("known")
    trouble(known)
    newcomers = strangers(20, 20)
    roster, recent, rng = Roster([known, *newcomers]), RecentChoices(), random.Random(1)
    for _ in range(20):
        choice = choose(roster, QUERY, NOW_S, rng, recent=recent)
        assert choice is not None and choice.worker is not known
        recent.note(KEY, choice.worker)
        choice.worker.reserve(KEY, NOW_S)
    assert max(each.in_flight for each in newcomers) <= 3


@pytest.mark.parametrize("count", [1, 2, 40])
def test_a_gateway_that_knows_strangers_only_uses_them_at_once(count: int) -> None:
    chosen = sent(strangers(count, count), 30)
    assert len(chosen) == 30
    assert len({each.peer_id for each in chosen}) == min(count, len({each.peer_id for each in chosen}))
    assert len({each.peer_id for each in chosen}) >= min(count, 10)


def test_who_failed_this_request_leaves_it_to_strangers() -> None:
    known, stranger = tried("known"), worker("stranger")
    choice = choose(Roster([known, stranger]), QUERY, NOW_S, random.Random(1), exclude=("known",))
    assert choice is not None and choice.worker is stranger


# ---- shares

SHARES = {1: 1.0, 2: 2 / 3, 3: 1 / 2, 4: 1 / 3, 5: 1 / 3, 30: 1 / 3}


@pytest.mark.parametrize(("count", "share"), SHARES.items())
def test_no_worker_has_more_than_its_share_while_others_have_room(count: int, share: float) -> None:
    """Given one that is many times as fast as all others, and claims a thousand slots."""
    fast = tried("fast", slots=1024, token_s=0.0001)
    fast.served_at_once = 1024
    chosen = sent([fast, *(tried(f"slow {n}", token_s=0.1) for n in range(count - 1))], 480)
    had = [each is fast for each in chosen]
    for begin in range(len(chosen) - WINDOW + 1):
        assert sum(had[begin : begin + WINDOW]) <= WINDOW * share
    if count <= SAMPLE:
        assert sum(had) == pytest.approx(480 * share, abs=WINDOW), "it is the best one all the same"


def test_a_share_is_no_bound_where_nobody_else_has_room() -> None:
    fast, slow = tried("fast", slots=64, token_s=0.01), tried("slow", slots=1, token_s=0.1)
    chosen = sent([fast, slow], 40, ends=lambda worker, number: worker is fast)
    assert [each.peer_id for each in chosen].count("slow") == 1


def test_a_conversation_changes_its_worker_among_the_same_few() -> None:
    known = [tried(f"known {n}") for n in range(40)]
    roster, rng, recent = Roster(known), random.Random(1), RecentChoices()
    chosen = []
    for _ in range(100):
        choice = choose(roster, RouteQuery("tiny", affinity=bytes(16)), NOW_S, rng, recent=recent)
        assert choice is not None
        recent.note(KEY, choice.worker)
        chosen.append(choice.worker.peer_id)
    assert len(set(chosen)) == 3


def test_models_have_shares_of_their_own_and_names_are_forgotten() -> None:
    recent, one = RecentChoices(), tried("one")
    for number in range(3 * MAX_MODELS):
        recent.note((f"model {number}", "generate"), one)
    assert len(recent._by_key) == MAX_MODELS
    for _ in range(WINDOW):
        recent.note(KEY, one)
    assert not recent.has_share_left(KEY, one, 2)
    assert recent.has_share_left(("other", "generate"), one, 2)


# ---- claims


def test_speed_that_no_neighbour_has_counts_up_to_a_lead() -> None:
    roster = Roster([tried("fast", token_s=0.0001), tried("usual", token_s=0.1), tried("slow", token_s=0.15)])
    choice = choose(roster, QUERY, NOW_S, random.Random(1))
    assert choice is not None
    expected_s = {each.worker: each.expected_s for each in choice.considered}
    assert expected_s["fast"] == pytest.approx(expected_s["usual"] / MAX_LEAD, rel=0.1)
    assert expected_s["slow"] > expected_s["usual"]


def test_to_say_that_one_is_fast_idle_and_large_brings_nothing() -> None:
    liar, honest = tried("liar"), tried("honest")
    liar.record = msgspec.structs.replace(liar.record, slots=1 << 40)
    liar.served_at_once = 2
    liar.note_load(Load(slots=1 << 40, decode_tokens_per_s=Measure(1e9, 1)), NOW_S + 1_000)
    honest.note_load(Load(slots=4), NOW_S + 1_000)
    counts = Counter(each.peer_id for each in sent([liar, honest], 400))
    assert counts["liar"] == pytest.approx(200, abs=40)


def test_slots_are_believed_as_far_as_they_were_used() -> None:
    one = worker("one", slots=100)
    assert not one.is_tried
    assert one.believed_slots == BELIEVED_AT_FIRST
    for _ in range(10):
        one.reserve(KEY, NOW_S)
    one.release(KEY)
    one.note_served(KEY)
    assert one.is_tried
    assert one.believed_slots == 10 * BELIEVED_GROWTH
    assert worker("small", slots=2).believed_slots == 2
