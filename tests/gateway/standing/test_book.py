"""The book of what was given: what counts, what decays, what is forgotten, and the file that it is kept in."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.standing import book as limits
from gateway.standing.book import (
    HALF_LIFE_S,
    MAX_GIVERS,
    MAX_PAIRS,
    MAX_SAID,
    MERITS_AGE_S,
    PART_OF_ONE_CALLER,
    Book,
    Sum,
    Word,
)
from gateway.standing.keeper import BookKeeper
from gateway.standing.labels import labels
from gateway.standing.merit import LEAST_MERIT, LEAST_TOTAL_TOKENS, priority_of
from tests.stories import peer

ONE_CALLER = PART_OF_ONE_CALLER * LEAST_TOTAL_TOKENS
NOW_S = 1_800_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def book(clock: Clock) -> Book:
    return Book(unix_s=clock)


def serve(book: Book, worker: str, callers: int, tokens: int = 10**6) -> None:
    for number in range(callers):
        book.note(worker, f"caller {number}", tokens)


def test_what_somebody_gave_who_was_found_out_counts_no_more(book: Book, clock: Clock) -> None:
    serve(book, "honest", 8)
    alone = book.merit("honest")
    serve(book, "cheat", 8)
    book.hear(Word("cheat", "its gateway", "friend"), Sum(1000.0, clock.now_s))
    assert book.merit("cheat") > 0 and book.merit("friend") > 0
    for _ in range(2):
        book.forget("cheat")
    assert book.received("cheat") == book.merit("cheat") == book.merit("friend") == 0
    assert book.merit("honest") == pytest.approx(alone)
    book.forget("nobody")


def test_one_caller_makes_nobody_great(book: Book) -> None:
    """Whoever asks for nothing but what its own worker gives."""
    for _ in range(100):
        book.note("own", "owner", 10**6)
    assert book.merit("own") == pytest.approx(PART_OF_ONE_CALLER)
    assert priority_of(book.merit("own")) == 0
    assert book.received("own") == 10**8


def test_four_callers_make_standing(book: Book) -> None:
    serve(book, "three", 3)
    serve(book, "four", 4)
    assert [priority_of(book.merit(worker)) for worker in ("three", "four")] == [0, 1]


def test_who_asks_its_own_worker_takes_nobody_s_standing(book: Book) -> None:
    serve(book, "volunteer", 100, 1000)
    before = book.merit("volunteer")
    serve(book, "own", 1, 10**12)
    assert book.merit("volunteer") == pytest.approx(before)


def test_a_caller_s_part_grows_with_all(book: Book) -> None:
    """Two thousand pairs of caller and worker have less than a thousandth each."""
    for _ in range(10):
        for caller in range(100):
            for worker in range(20):
                book.note(f"worker {worker}", f"caller {caller}", 1000)
    assert [book.merit(f"worker {worker}") for worker in range(20)] == pytest.approx([1 / 20] * 20, rel=0.1)
    book.note("late", "caller 0", 10**6)
    assert book.merit("late") == 0.0  # as of some seconds ago


def test_what_was_given_decays(book: Book, clock: Clock) -> None:
    serve(book, "worker", 10)
    now, received = book.merit("worker"), book.received("worker")
    clock.now_s += HALF_LIFE_S
    assert book.merit("worker") == pytest.approx(now / 2)
    assert book.received("worker") == received // 2
    clock.now_s += HALF_LIFE_S
    assert book.merit("worker") == pytest.approx(now / 4)


def test_a_clock_that_goes_back_gives_nobody_anything(book: Book, clock: Clock) -> None:
    serve(book, "worker", 10)
    now = book.merit("worker")
    clock.now_s -= 10 * HALF_LIFE_S
    assert book.merit("worker") == pytest.approx(now)


def test_what_is_no_gift_is_not_kept(book: Book) -> None:
    book.note("worker", "caller", 0)
    assert book.contents().given == {} and book.version == 0


def test_those_that_gave_least_make_room(book: Book) -> None:
    serve(book, "volunteer", 10)
    for number in range(MAX_GIVERS + 10):
        book.note(f"invented {number}", "attacker", 1)
    kept = book.contents()
    assert len(kept.given) <= MAX_GIVERS and kept.given.keys() == kept.received.keys()
    assert book.received("volunteer") == 10**7
    assert book.merit("volunteer") == pytest.approx(10 * ONE_CALLER / LEAST_TOTAL_TOKENS)


def test_callers_are_forgotten_in_turn(book: Book) -> None:
    for number in range(MAX_PAIRS + 1):
        book.note("worker", f"caller {number}", 1)
    assert len(book._pairs) == MAX_PAIRS


def test_the_word_of_who_gave_counts_for_no_more_than_that(book: Book) -> None:
    serve(book, "volunteer", 50)
    gave = book.merit("volunteer")
    assert book.hear(Word("volunteer", "its gateway", "friend"), Sum(10.0**12, NOW_S))
    assert book.merit("friend") == pytest.approx(gave / 4)  # half of it, and half again, since it is behind one
    assert book.merit("volunteer") == pytest.approx(gave)


def test_what_is_shown_is_told_at_once_but_reckoned_once_a_second(book: Book, clock: Clock) -> None:
    serve(book, "volunteer", 50)
    merits = []
    for second, tokens in ((0.0, 40.0), (0.5, 80.0), (1.5, 120.0)):
        clock.now_s = NOW_S + second
        book.hear(Word("volunteer", "its gateway", "friend"), Sum(tokens, clock.now_s))
        merits.append(round(book.merit("friend") * 4 * LEAST_TOTAL_TOKENS))
    assert merits == [40, 40, 120]


def test_the_word_of_who_gave_nothing_is_not_kept(book: Book) -> None:
    serve(book, "volunteer", 50)
    for word in (Word("stranger", "its gateway", "friend"), Word("volunteer", "its gateway", "volunteer")):
        assert not book.hear(word, Sum(1000.0, NOW_S))
    assert not book.hear(Word("volunteer", "its gateway", "friend"), Sum(0.0, NOW_S))
    assert book.contents().said == {}


def test_an_older_word_of_a_gateway_is_worth_nothing_beside_a_newer_one(book: Book, clock: Clock) -> None:
    serve(book, "volunteer", 50)
    word = Word("volunteer", "its gateway", "friend")
    assert book.hear(word, Sum(40.0, NOW_S))
    assert not book.hear(word, Sum(1000.0, NOW_S - 1))
    assert not book.hear(word, Sum(40.0, NOW_S))
    assert book.hear(word, Sum(20.0, NOW_S + 1))
    clock.now_s += HALF_LIFE_S + 1
    assert book.merit("friend") == pytest.approx(20 / 2 / 4 / LEAST_TOTAL_TOKENS)


def test_words_that_count_least_make_room_however_much_they_claim(book: Book) -> None:
    serve(book, "volunteer", 50)
    book.note("small", "caller", 1)
    honest = Word("volunteer", "its gateway", "friend")
    book.hear(honest, Sum(50.0, NOW_S))
    for number in range(MAX_SAID + 10):
        book.hear(Word("small", "its gateway", f"invented {number}"), Sum(10.0**12, NOW_S))
    assert honest in book.contents().said
    assert len(book.contents().said) <= MAX_SAID


def test_the_newest_key_of_a_peer_with_merit_replaces_older_ones(book: Book) -> None:
    serve(book, "volunteer", 4)
    assert book.is_newest("volunteer", 5) and book.is_newest("volunteer", 5)
    assert book.is_newest("volunteer", 7)
    assert not book.is_newest("volunteer", 6)
    assert book.is_newest("stranger", 7) and book.is_newest("stranger", 6)
    assert book.contents().claimed_ms == {"volunteer": 7}


async def opened(path: Path, clock: Clock) -> BookKeeper:
    return await BookKeeper.open(path, 1e9, clock, labels(peer("gateway")))


@pytest.fixture
async def kept(tmp_path: Path, clock: Clock) -> AsyncIterator[Path]:
    """A file with something in it."""
    keeper = await opened(tmp_path / "standing.sqlite3", clock)
    serve(keeper.book, "volunteer", 50)
    keeper.book.hear(Word("volunteer", "its gateway", "friend"), Sum(50.0, NOW_S))
    keeper.book.is_newest("volunteer", 7)
    await keeper.close()
    yield tmp_path / "standing.sqlite3"


def test_the_file_is_its_owner_s_and_no_caller_is_in_it(kept: Path) -> None:
    assert kept.stat().st_mode & 0o077 == 0
    assert b"caller 1" not in kept.read_bytes()


def test_a_label_is_the_same_in_every_run_of_a_gateway_and_of_no_other() -> None:
    first, again, other = (labels(peer(name)) for name in ("gateway", "gateway", "other"))
    assert first("192.0.2.1") == again("192.0.2.1") != first("192.0.2.2")
    assert other("192.0.2.1") != first("192.0.2.1") and len(first("192.0.2.1")) == 16
    assert labels(None)("192.0.2.1") != labels(None)("192.0.2.1")


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        ("8.8.4.1", "8.8.4.200", True),
        ("8.8.4.1", "8.8.5.1", False),
        ("2001:4860:1:2::/64", "2001:4860:1:3::/64", True),
        ("2001:4860:1::/64", "2001:4860:2::/64", False),
        ("192.168.1.7", "192.168.1.8", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("anna", "bob", False),
        ("unknown", "unknown", True),
    ],
)
def test_callers_of_one_public_subnet_are_one(one: str, other: str, is_one: bool) -> None:
    label = labels(peer("gateway"))
    assert (label(one) == label(other)) is is_one


async def test_a_book_is_the_same_after_a_restart(kept: Path, clock: Clock) -> None:
    keeper = await opened(kept, clock)
    assert keeper.book.received("volunteer") == 50 * 10**6
    assert keeper.book.merit("volunteer") == pytest.approx(50 * ONE_CALLER / LEAST_TOTAL_TOKENS)
    assert keeper.book.merit("friend") > 0
    assert not keeper.book.is_newest("volunteer", 6)
    serve(keeper.book, "volunteer", 50)  # the same callers again, who have had their part
    clock.now_s += MERITS_AGE_S + 1
    assert keeper.book.merit("volunteer") == pytest.approx(50 * ONE_CALLER / LEAST_TOTAL_TOKENS, rel=1e-4)
    await keeper.close()


def damage(path: Path, change: str | None) -> None:
    if change is None:
        path.write_bytes(b"x" * 4096)
        return
    with closing(sqlite3.connect(path)) as connection, connection as transaction:
        transaction.execute(change)


@pytest.mark.parametrize("change", [None, "PRAGMA application_id = 1", "UPDATE given SET tokens = 'many'"])
async def test_a_file_that_is_not_ours_is_moved_aside(kept: Path, clock: Clock, change: str | None) -> None:
    damage(kept, change)
    keeper = await opened(kept, clock)
    assert keeper.book.received("volunteer") == 0
    await keeper.close()
    assert [path.name for path in kept.parent.glob("*.aside-*")] == [f"standing.sqlite3.aside-{int(NOW_S)}"]


async def test_two_gateways_do_not_write_one_file(kept: Path, clock: Clock) -> None:
    first = await opened(kept, clock)
    second = await opened(kept, clock)
    serve(second.book, "other", 4)
    assert second.book.received("volunteer") == 0  # it keeps to memory
    await second.close()
    await first.close()
    third = await opened(kept, clock)
    assert (third.book.received("volunteer"), third.book.received("other")) == (50 * 10**6, 0)
    await third.close()


def test_standing_begins_within_what_is_remembered() -> None:
    assert limits.MAX_GIVERS > 1.5 / LEAST_MERIT
