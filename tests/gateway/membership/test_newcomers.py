"""Newcomers: who is asked next, who waits, and what any number of records costs."""

from __future__ import annotations

import random

import msgspec
import pytest

from gateway.membership.newcomers import FIRST_PAUSE_S, MAX_PAUSE_S, MAX_SILENT, MAX_WAITING, Newcomers
from gateway.peers.worker import Worker
from p2pnet.records import CapabilityRecord
from tests.stories import capability, card, peer

RECORD = capability(peer("a"))


def record(name: str, subnet: str = "9.9.9", sequence: int = 1) -> CapabilityRecord:
    return msgspec.structs.replace(RECORD, peer_id=name, sequence=sequence, addresses=(f"/ip4/{subnet}.1/tcp/{1}",))


def newcomers(served: frozenset[str] = frozenset()) -> Newcomers:
    def make(record: CapabilityRecord) -> Worker:
        worker = Worker(record)
        worker.health.has_served = record.peer_id in served
        return worker

    return Newcomers(make, random.Random(1))


def names(workers: list[Worker]) -> list[str]:
    return [worker.peer_id for worker in workers]


def test_who_does_not_answer_waits_twice_as_long_each_time() -> None:
    given, now_s = newcomers(), 0.0
    pause_s = FIRST_PAUSE_S
    for _ in range(14):
        given.offer([record("a")], now_s)
        (asked,) = given.next(9)
        given.note_silent(asked, now_s)
        given.offer([record("a", sequence=round(now_s) + 2)], now_s + pause_s - 0.1)
        assert given.next(9) == []
        now_s += pause_s
        pause_s = min(MAX_PAUSE_S, 2 * pause_s)
    assert pause_s == MAX_PAUSE_S


def test_who_has_moved_is_asked_at_once_and_its_pauses_go_on_growing() -> None:
    given = newcomers()
    for turn in range(5):
        given.offer([record("a", f"9.9.{turn}")], 0.0)
        (asked,) = given.next(9)
        given.note_silent(asked, 0.0)
    given.offer([record("a", "9.9.4")], FIRST_PAUSE_S * 2**4 - 0.1)
    assert given.next(9) == []


def test_subnets_have_turns_and_not_identities() -> None:
    given = newcomers()
    given.offer(
        [record(f"of many {n}") for n in range(500)] + [record(f"alone {n}", f"8.8.{n}") for n in range(7)], 0.0
    )
    assert len([name for name in names(given.next(8)) if name.startswith("alone")]) == 7


def test_who_served_in_an_earlier_run_comes_first_and_who_was_silent_last() -> None:
    given = newcomers(frozenset(["known"]))
    given.offer([record("silent")], 0.0)
    given.note_silent(given.next(1)[0], 0.0)
    given.offer([record("silent"), *(record(f"new {n}") for n in range(20)), record("known")], 10.0)
    order = names(given.next(100))
    assert (order[0], order[-1]) == ("known", "silent")


def test_only_those_of_the_model_and_not_those_under_way() -> None:
    given = newcomers()
    rare = msgspec.structs.replace(record("rare"), models=(card("rare"),))
    given.offer([record("a"), record("b"), rare], 0.0)
    assert names(given.next(9, model="rare")) == ["rare"]
    assert given.announce("rare") and not given.announce("unheard-of")
    assert names(given.next(9, skip=["a", "rare"])) == ["b"]


def test_who_answers_or_is_announced_no_more_is_none_any_longer() -> None:
    given = newcomers()
    given.offer([record("a"), record("b")], 0.0)
    a, b = sorted(given.next(9), key=lambda worker: worker.peer_id)
    assert given.take(a)
    assert not given.take(a)
    given.keep({"a"})
    assert not given.take(b)
    given.note_silent(b, 0.0)
    assert len(given) == 0


def test_a_newer_record_of_one_that_waits_is_taken_and_an_older_one_is_not() -> None:
    given = newcomers()
    for sequence in (5, 7, 6):
        given.offer([record("a", sequence=sequence)], 0.0)
    assert given.next(1)[0].record.sequence == 7


def test_of_too_many_it_falls_to_lot_who_waits_and_everybody_has_a_turn() -> None:
    given, crowd = newcomers(), [record(f"{n}", f"{n // 250}.1.{n % 250}") for n in range(4 * MAX_WAITING)]
    asked: set[str] = set()
    for moment in range(4):
        given.offer(crowd, float(moment) / 1000)
        assert len(given) == MAX_WAITING
        for worker in given.next(MAX_WAITING):
            given.note_silent(worker, 0.0)
            asked.add(worker.peer_id)
    assert asked == {each.peer_id for each in crowd}


def test_a_subnet_of_its_own_finds_room_among_thousands_of_another() -> None:
    given, crowd = newcomers(), [*(record(f"{n}") for n in range(17_000)), record("honest", "8.8.8")]
    asked: set[str] = set()
    for moment in range(20):
        given.offer(crowd, float(moment) / 1000)
        for worker in given.next(32):
            given.note_silent(worker, 0.0)
            asked.add(worker.peer_id)
    assert "honest" in asked, "640 of 17,001 were asked"


def test_there_is_room_for_whom_a_request_waits() -> None:
    given = newcomers()
    given.offer([record(f"{n}") for n in range(2 * MAX_WAITING)], 0.0)
    wanted = msgspec.structs.replace(record("wanted"), models=(card("wanted"),))
    given.offer([wanted], 0.0)
    assert given.next(9, model="wanted") == []
    given.offer([wanted], 0.0, least_room=8)
    assert names(given.next(9, model="wanted")) == ["wanted"]


@pytest.mark.parametrize("count", [MAX_SILENT + 100])
def test_what_is_remembered_of_the_silent_is_bounded(count: int) -> None:
    given = newcomers()
    for begin in range(0, count, MAX_WAITING):
        given.offer([record(f"{n}") for n in range(begin, min(count, begin + MAX_WAITING))], 0.0)
        for worker in given.next(MAX_WAITING):
            given.note_silent(worker, 0.0)
    assert len(given._silent) == MAX_SILENT
