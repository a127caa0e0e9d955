"""Where volunteers show what they have: the keys of their clients, and what other gateways have signed for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gateway.interface import Volunteer
from gateway.standing.book import Book, Sum, Word
from gateway.standing.merit import SHARE_FACTOR, priority_of
from p2pnet.claims import read_claim
from p2pnet.errors import ClaimRefused, InvalidRequest, ReceiptRefused
from p2pnet.network.interface import Clock
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import open_statement
from p2pnet.receipts.vouch import VOUCH_LIFETIME_MS, Vouch
from p2pnet.records import MAX_CLOCK_SKEW_MS

MAX_SHOWN = 16
"""Acknowledgements shown at once, the newest of each of so many gateways: to check them takes some 3 ms, in which the
gateway does nothing else."""

MAX_OPENED = 1024
"""Vouches that are remembered to hold: a gateway's is in everything that it has signed."""


@dataclass(frozen=True)
class Standing:
    """A volunteer's standing here. `received_tokens` is what this gateway has received from it, as it counts now;
    `merit` its part of all, hearsay included; `turns` how many its clients get for one of others', in a full queue."""

    peer: str
    turns: int
    merit: float
    received_tokens: int
    expires_ms: int


class Desk:
    """One gateway's. `gateway` is its peer id."""

    def __init__(self, gateway: str, book: Book, now_ms: Clock) -> None:
        self._gateway = gateway
        self._book = book
        self._now_ms = now_ms

    def prove(self, key: str) -> Volunteer:
        """Whose standing a key claims. Raises ClaimRefused."""
        claim = read_claim(key, self._gateway, self._now_ms())
        if not self._book.is_newest(claim.peer, claim.issued_ms):
            raise ClaimRefused(
                "A newer key of this volunteer has been used here, and this one is good no more. Use the newest, or "
                f"make one with `p2pnet keys claim {self._gateway}`."
            )
        return Volunteer(claim.peer, claim.expires_ms, priority_of(self._book.merit(claim.peer)))

    def standing(self, volunteer: Volunteer) -> Standing:
        """As it is now."""
        merit, received = self._book.merit(volunteer.peer), self._book.received(volunteer.peer)
        turns = SHARE_FACTOR ** priority_of(merit)
        return Standing(volunteer.peer, turns, merit, received, volunteer.expires_ms)

    def hear(self, volunteer: Volunteer, shown: Sequence[bytes]) -> int:
        """Take what other gateways have signed for this volunteer. Returns how many of them say something here that was
        not known. Raises InvalidRequest where one does not hold; those of gateways that nobody known has vouched for
        hold, and say nothing."""
        if len(shown) > MAX_SHOWN:
            raise InvalidRequest(f"Show at most {MAX_SHOWN} at once, the newest of each gateway.", "signed")
        words = [self._word(number, volunteer.peer, sealed) for number, sealed in enumerate(shown)]
        return sum(self._book.hear(*word) for word in words if word is not None)

    def _word(self, number: int, worker: str, sealed: bytes) -> tuple[Word, Sum] | None:
        try:
            said = open_statement(sealed, Acknowledgement)
            if said.worker != worker:
                raise ReceiptRefused("it is for another worker")
            if said.issued_ms > self._now_ms() + MAX_CLOCK_SKEW_MS:
                raise ReceiptRefused("it is from the future")
            if not said.vouch or said.verdict != "received" or said.gateway == self._gateway:
                return None
            vouch = _opened(said.vouch)
        except ReceiptRefused as error:
            raise InvalidRequest(f"signed[{number}] does not hold: {error}", "signed") from error
        left_ms = vouch.expires_ms - self._now_ms()
        if vouch.gateway != said.gateway or not 0 < left_ms <= VOUCH_LIFETIME_MS + MAX_CLOCK_SKEW_MS:
            return None
        return Word(vouch.peer, said.gateway, worker), Sum(said.total, said.issued_ms / 1000)


@lru_cache(MAX_OPENED)
def _opened(sealed: bytes) -> Vouch:
    """Raises ReceiptRefused."""
    return open_statement(sealed, Vouch)
