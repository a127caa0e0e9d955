"""What volunteers show a gateway: acknowledgements of others with a vouch, honest ones and all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.interface import Volunteer
from gateway.standing.book import Book
from gateway.standing.desk import MAX_SHOWN, Desk
from gateway.standing.voucher import Voucher
from p2pnet.errors import InvalidRequest
from p2pnet.identity import Identity
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import open_statement, seal_statement
from p2pnet.receipts.vouch import MAX_VOUCH_BYTES, VOUCH_LIFETIME_MS, Vouch
from p2pnet.records import MAX_CLOCK_SKEW_MS
from tests.stories import NOW_MS, ManualClock, peer

GATEWAY, ALICE, HOME, BOB, STRANGER = map(peer, ("gateway", "alice", "alice's gateway", "bob", "stranger"))
BOB_ASKS = Volunteer(BOB.peer_id, NOW_MS)
VOUCH = Vouch(ALICE.peer_id, HOME.peer_id, NOW_MS + VOUCH_LIFETIME_MS)
SAID = Acknowledgement(
    gateway=HOME.peer_id,
    worker=BOB.peer_id,
    request_hash=bytes(32),
    ids_hash=bytes(32),
    model="tiny",
    verdict="received",
    issued_ms=NOW_MS,
    tokens=3,
    total=4000,
    vouch=seal_statement(VOUCH, ALICE),
)


@pytest.fixture
def book() -> Book:
    """Alice's worker has given something to a hundred callers."""
    book = Book(unix_s=lambda: NOW_MS / 1000)
    for caller in range(100):
        book.note(ALICE.peer_id, f"caller {caller}", 1000)
    return book


@pytest.fixture
def desk(book: Book) -> Desk:
    return Desk(GATEWAY.peer_id, book, lambda: NOW_MS)


def said(signer: Identity = HOME, **changes: Any) -> bytes:
    return seal_statement(msgspec.structs.replace(SAID, **changes), signer)


def vouched(signer: Identity = ALICE, **changes: Any) -> bytes:
    return said(vouch=seal_statement(msgspec.structs.replace(VOUCH, **changes), signer))


def test_who_has_served_the_gateway_of_somebody_known_has_standing(desk: Desk, book: Book) -> None:
    assert desk.standing(BOB_ASKS).turns == 1
    assert desk.hear(BOB_ASKS, [said()]) == 1
    known = desk.standing(BOB_ASKS)
    assert (known.turns, known.received_tokens) == (4, 0)
    assert known.merit == pytest.approx(4000 / 4 / 100_000)
    assert desk.hear(BOB_ASKS, [said()]) == 0


SAYS_NOTHING: dict[str, Callable[[], bytes]] = {
    "nobody vouches": lambda: said(vouch=b""),
    "a stranger vouches": lambda: vouched(STRANGER, peer=STRANGER.peer_id),
    "the vouch is for another gateway": lambda: vouched(gateway=STRANGER.peer_id),
    "the vouch has expired": lambda: vouched(expires_ms=NOW_MS),
    "the vouch is good for too long": lambda: vouched(expires_ms=NOW_MS + VOUCH_LIFETIME_MS + MAX_CLOCK_SKEW_MS + 1),
    "the receipt was wrong": lambda: said(verdict="wrong_receipt"),
    "no total, as of an earlier version": lambda: said(total=0),
    "this gateway's own": lambda: said(GATEWAY, gateway=GATEWAY.peer_id),
    "its own worker vouches": lambda: vouched(BOB, peer=BOB.peer_id),
}


@pytest.mark.parametrize("way", SAYS_NOTHING)
def test_what_says_nothing_here_changes_nothing(way: str, desk: Desk, book: Book) -> None:
    assert desk.hear(BOB_ASKS, [SAYS_NOTHING[way]()]) == 0
    assert book.contents().said == {} and book.merit(BOB.peer_id) == 0


DOES_NOT_HOLD: dict[str, tuple[Callable[[], bytes], str]] = {
    "for another worker": (lambda: said(worker=ALICE.peer_id), "for another worker"),
    "from the future": (lambda: said(issued_ms=NOW_MS + MAX_CLOCK_SKEW_MS + 1), "from the future"),
    "signed by another": (lambda: said(STRANGER), "signature"),
    "a vouch that another has signed": (lambda: vouched(STRANGER), "signature"),
    "a vouch that is none": (lambda: said(vouch=b"yes"), "it is none"),
    "a vouch that is a claim of something else": (lambda: said(vouch=said(vouch=b"")[:MAX_VOUCH_BYTES]), "it is none"),
    "a vouch that is too large": (lambda: said(vouch=bytes(MAX_VOUCH_BYTES + 1)), "it is none"),
    "no statement": (lambda: b"\xc1", "it is none"),
    "too large": (lambda: bytes(100_000), "100000 bytes"),
}


@pytest.mark.parametrize("way", DOES_NOT_HOLD)
def test_what_does_not_hold_is_named(way: str, desk: Desk, book: Book) -> None:
    sealed, reason = DOES_NOT_HOLD[way]
    with pytest.raises(InvalidRequest, match=rf"signed\[1\] does not hold: .*{reason}"):
        desk.hear(BOB_ASKS, [said(), sealed()])
    assert book.contents().said == {}


def test_as_much_is_shown_as_is_checked_in_one_go(desk: Desk) -> None:
    assert desk.hear(BOB_ASKS, [said()] * MAX_SHOWN) == 1
    with pytest.raises(InvalidRequest, match="at most 16"):
        desk.hear(BOB_ASKS, [said()] * (MAX_SHOWN + 1))


def test_a_gateway_that_runs_on_has_a_vouch_that_holds() -> None:
    clock = ManualClock()
    voucher = Voucher(ALICE, HOME.peer_id, clock)
    first = voucher.sealed()
    assert open_statement(first, Vouch) == VOUCH
    clock.advance(86_400)
    assert voucher.sealed() == first
    for _ in range(10):
        clock.advance(20 * 86_400)
        left_ms = open_statement(voucher.sealed(), Vouch).expires_ms - clock()
        assert VOUCH_LIFETIME_MS // 2 <= left_ms <= VOUCH_LIFETIME_MS
