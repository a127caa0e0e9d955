"""What standing buys, and what it can be cheated of, counted with the code itself; every run is the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from statistics import mean

import pytest

from gateway.interface import Caller, Volunteer
from gateway.standing.book import Book, Sum, Word
from gateway.standing.merit import LEAST_MERIT, priority_of
from tests.depth import scaled
from tests.gateway.standing.simulated import (
    ANSWER_TOKENS,
    CALLERS,
    NOW_S,
    RIDERS,
    SYBILS,
    VOLUNTEERS,
    caller_for,
    part_of,
    praise,
    serve,
    usual_book,
    waits,
)

SYBILS_ANSWERS = 64
"""What invented identities have really given together, a five-hundredth of all."""


def chain() -> Iterator[tuple[str, str]]:
    return zip(SYBILS, [*SYBILS[1:], SYBILS[0]], strict=True)


def each_gives_a_little(book: Book) -> None:
    for number in range(SYBILS_ANSWERS):
        book.note(SYBILS[number], CALLERS[number], ANSWER_TOKENS)


def one_gives_and_its_gateway_praises_all_others(book: Book) -> None:
    serve(book, SYBILS[0], SYBILS_ANSWERS)
    praise(book, SYBILS[0], SYBILS[1:])


def two_give_and_praise_one(book: Book) -> None:
    for sybil in SYBILS[:2]:
        serve(book, sybil, SYBILS_ANSWERS // 2)
        praise(book, sybil, SYBILS[2:3])


def one_gives_and_they_praise_in_a_ring(book: Book) -> None:
    serve(book, SYBILS[0], SYBILS_ANSWERS)
    for sybil, other in chain():
        praise(book, sybil, [other])


def none_gives_and_their_gateways_invent(book: Book) -> None:
    for sybil in SYBILS[:30]:
        praise(book, sybil, SYBILS)


def each_asks_its_own_worker(book: Book) -> None:
    """From one address, for days: a model that nobody else runs."""
    for sybil in SYBILS:
        book.note(sybil, "198.51.100.1", 10**9)


def one_is_asked_by_three_of_its_own(book: Book) -> None:
    for caller in range(3):
        book.note(SYBILS[0], f"198.51.100.{caller}", 10**9)


def one_that_had_standing_begins_anew(book: Book) -> None:
    """Its old name is spoilt, for it has been caught: what it gave is not the new one's."""
    serve(book, "spoilt", 2000)


ATTACKS: list[Callable[[Book], None]] = [
    each_gives_a_little,
    one_gives_and_its_gateway_praises_all_others,
    two_give_and_praise_one,
    one_gives_and_they_praise_in_a_ring,
    none_gives_and_their_gateways_invent,
    each_asks_its_own_worker,
    one_is_asked_by_three_of_its_own,
    one_that_had_standing_begins_anew,
]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_thousand_invented_identities_gain_no_more_than_a_hundredth_of_a_full_queue(
    attack: Callable[[Book], None],
) -> None:
    book = usual_book()
    attack(book)

    def part(has_claim: bool) -> float:
        others = [caller_for(book, asker) for asker in CALLERS]
        sybils = [caller_for(book, asker, has_claim) for asker in SYBILS]
        lines = {sybil.line for sybil in sybils}
        return part_of(lambda line: line in lines, [*others, *sybils])

    assert part(has_claim=True) - part(has_claim=False) <= 0.01
    assert all(priority_of(book.merit(volunteer)) == 2 for volunteer in VOLUNTEERS)  # and harm nobody


def test_a_small_real_service_is_inflated_by_half_at_most() -> None:
    """Those who gave a hundredth of all, and praise one another as they like, get what one and a half hundredths do."""
    book = usual_book()
    serve(book, SYBILS[0], 160)
    serve(book, SYBILS[1], 160)
    gave = book.merit(SYBILS[0]) + book.merit(SYBILS[1])
    for sybil in SYBILS[:2]:
        praise(book, sybil, SYBILS[:12])
    merits = [book.merit(sybil) for sybil in SYBILS]
    assert sum(merits) <= 1.5 * gave
    assert sum(4 ** priority_of(merit) for merit in merits if merit >= LEAST_MERIT) <= 1500 * gave


def test_a_real_volunteer_s_gateway_that_invents_gives_away_a_quarter_of_its_merit() -> None:
    book = usual_book()
    praise(book, VOLUNTEERS[0], SYBILS)
    assert sum(book.merit(sybil) for sybil in SYBILS) <= 0.25 * book.merit(VOLUNTEERS[0]) + 1e-9
    assert not any(priority_of(book.merit(sybil)) for sybil in SYBILS)


def test_who_has_served_the_gateways_of_volunteers_has_standing_here() -> None:
    """A newcomer that three of them asked at home, and that this gateway has never asked."""
    book = usual_book()
    for volunteer in VOLUNTEERS[:3]:
        book.hear(Word(volunteer, f"{volunteer}'s gateway", "newcomer"), Sum(20_000.0, NOW_S))
    assert priority_of(book.merit("newcomer")) == 0  # a thousandth of all: there are greater volunteers
    for volunteer in VOLUNTEERS[:3]:
        book.hear(Word(volunteer, f"{volunteer}'s gateway", "newcomer"), Sum(200_000.0, NOW_S + 1))
    assert priority_of(Book(book.contents(), lambda: NOW_S).merit("newcomer")) == 1


def test_one_volunteer_starves_nobody() -> None:
    """Given one that has given all, beside free riders who all ask all the time."""
    book = Book(unix_s=lambda: NOW_S)
    serve(book, "great", 10_000)
    riders = [caller_for(book, rider) for rider in RIDERS[:48]]
    got = part_of(lambda line: line.startswith("great"), [*riders, caller_for(book, "great")])
    assert got == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(("priority", "turns"), [(0, 16), (-1, 4), (1, 64), (3, 64), (-3, 0.25)])
def test_standing_is_added_to_the_priority_of_a_key(priority: int, turns: float) -> None:
    """Beside sixteen keys of priority 0, and never beyond the highest that there is."""
    both = Caller("anna", priority, volunteer=Volunteer("volunteer", 0, 2))
    others = [Caller(f"key-{number}") for number in range(16)]
    got = part_of(lambda line: line.startswith("volunteer"), [*others, both])
    assert got == pytest.approx(turns / (16 + turns), abs=0.01)


def test_a_key_that_is_shared_is_one_line() -> None:
    volunteer = Volunteer("volunteer", 0, 2)
    friends = [Caller(f"friend-{number}", volunteer=volunteer) for number in range(100)]
    riders = [Caller(rider) for rider in RIDERS]
    assert part_of(lambda line: line.startswith("volunteer"), [*riders, *friends]) == pytest.approx(16 / 76, abs=0.01)


def test_volunteers_wait_half_as_long_as_free_riders_do() -> None:
    """Given a gateway at 95 % of what its workers can serve, when all ask for the same, then who has given waits at
    most half as long, and nobody waits for ever."""
    waited_s = waits(usual_book(), random.Random(7), scaled(ci=6_000, deep=60_000))
    volunteers, riders = (mean(wait for asker in group for wait in waited_s[asker]) for group in (VOLUNTEERS, RIDERS))
    assert volunteers <= 0.5 * riders
    assert max(wait for rider in RIDERS for wait in waited_s[rider]) < 60 * riders
    print(f"volunteers {volunteers:.2f} s, free riders {riders:.2f} s")
