"""Follows each exchange with a worker, checks the receipt at its end, and signs for what has come.

What a receipt says has no part in what the client is given: the answer has come before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gateway.interface import Caller
from gateway.standing.book import Book
from gateway.standing.voucher import Voucher
from p2pnet.errors import ReceiptRefused
from p2pnet.identity import Identity
from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Clock
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.document import Part
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledged, Verdict
from p2pnet.receipts.statement import seal_statement
from p2pnet.wire.codec import MAX_ACKNOWLEDGED_FRAME_BYTES, encode_frame

NoteWrong = Callable[[ReceiptRefused], None]


def unix_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class Witnesses:
    """One gateway's. Without an `identity` it checks receipts, and signs none. `book` is where it keeps what was given,
    and with a `voucher` what it signs is a volunteer's word."""

    gateway: str
    identity: Identity | None = None
    now_ms: Clock = unix_ms
    book: Book = field(default_factory=Book)
    voucher: Voucher | None = None

    def of(self, request: GenerateRequest, worker: str, caller: Caller, note_wrong: NoteWrong) -> ExchangeWitness:
        """Of a request that is sent to this worker now. `note_wrong` is told when its receipt is wrong."""
        return ExchangeWitness(self, request, worker, caller, note_wrong)


class ExchangeWitness:
    """One exchange's. See `p2pnet.client.Witness`."""

    def __init__(
        self, witnesses: Witnesses, request: GenerateRequest, worker: str, caller: Caller, note_wrong: NoteWrong
    ) -> None:
        self._witnesses = witnesses
        self._request = request
        self._parties = Parties(worker, witnesses.gateway)
        self._receipts = caller.receipts
        self._caller = caller.name
        self._note_wrong = note_wrong
        self._account: Account | None = None
        self._body: bytes | None = None
        self._verdict: Verdict | None = None

    def note_request(self, body: bytes) -> None:
        self._account = Account(self._parties, self._request, request_hash(body), self._witnesses.now_ms())
        self._body = None if self._receipts is None else body

    def note(self, event: Accepted | TextDelta | Finished) -> None:
        assert self._account is not None
        self._account.note(event)
        if isinstance(event, Finished) and event.receipt is not None:
            self._verdict = self._check(self._account, event.receipt, event)

    def note_failed(self, failed: Failed) -> None:
        """Nothing is signed for it: a worker that has broken off waits for nothing more."""
        if failed.receipt is not None and self._account is not None and self._account.has_tokens:
            self._check(self._account, failed.receipt, failed)

    def _check(self, account: Account, receipt: bytes, end: Finished | Failed) -> Verdict:
        try:
            said = account.check_receipt(receipt, end)
        except ReceiptRefused as error:
            self._note_wrong(error)
            return "wrong_receipt"
        self._witnesses.book.note(said.worker, self._caller, said.tokens)
        if self._receipts is not None:
            self._receipts.note(Part(receipt, self._body))
        return "received"

    def last_word(self) -> bytes | None:
        """The gateway's signature, for a worker that has given its own."""
        identity = self._witnesses.identity
        if identity is None or self._verdict is None or self._account is None:
            return None
        said = self._account.acknowledgement(self._verdict, self._witnesses.now_ms())
        if self._verdict == "received":
            voucher = self._witnesses.voucher
            total = self._witnesses.book.received(said.worker)
            said = msgspec.structs.replace(said, total=total, vouch=b"" if voucher is None else voucher.sealed())
        return encode_frame(Acknowledged(seal_statement(said, identity)), MAX_ACKNOWLEDGED_FRAME_BYTES)
