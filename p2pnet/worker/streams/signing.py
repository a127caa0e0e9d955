"""Signs receipts for what the worker has sent, and takes what gateways sign back.

Knows nothing of streams, nor of where acknowledgements are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from p2pnet.errors import ProtocolViolation, ReceiptRefused
from p2pnet.identity import Identity
from p2pnet.messages import Failed, Finished, GenerateRequest
from p2pnet.network.interface import Clock
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.signed import Acknowledgement
from p2pnet.receipts.statement import seal_statement
from p2pnet.score_messages import Scored
from p2pnet.wire.codec import acknowledged_decoder
from p2pnet.worker.backend import BackendEvent
from p2pnet.worker.streams.inbound import Asked

logger = logging.getLogger(__name__)

Keep = Callable[[Acknowledgement, bytes], None]
"""Takes a checked acknowledgement, and it as it was signed."""


def drop(acknowledgement: Acknowledgement, sealed: bytes) -> None:
    """Keeps none."""


@dataclass(frozen=True)
class Signer:
    """One worker's. `keep` gets what gateways sign back."""

    identity: Identity
    now_ms: Clock
    keep: Keep

    def follow(self, asked: Asked[GenerateRequest]) -> SignedAnswer:
        """An answer that begins now."""
        parties = Parties(self.identity.peer_id, asked.stream.peer_id)
        return SignedAnswer(self, Account(parties, asked.request, request_hash(asked.body), self.now_ms()))


class SignedAnswer:
    """One answer, from its request to what its gateway says of it."""

    def __init__(self, signer: Signer, account: Account) -> None:
        self._signer = signer
        self._account = account

    def with_receipt(self, event: BackendEvent) -> BackendEvent:
        """The next event as it is to be sent: the last one with a receipt for all."""
        if isinstance(event, Scored):  # of tokens that another worker gave
            return event
        self._account.note(event)
        if not isinstance(event, Finished):
            return event
        receipt = self._account.receipt(event, self._signer.now_ms())
        return msgspec.structs.replace(event, receipt=seal_statement(receipt, self._signer.identity))

    def last_failure(self, failed: Failed) -> Failed:
        """With a receipt for what was sent before it, if anything was."""
        if not self._account.has_tokens:
            return failed
        receipt = self._account.receipt(failed, self._signer.now_ms())
        return msgspec.structs.replace(failed, receipt=seal_statement(receipt, self._signer.identity))

    def hear(self, said: bytes) -> None:
        """What the gateway has said after the last event, if anything. What is not signed as it must be is worth
        nothing, and costs nothing either."""
        try:
            for each in acknowledged_decoder().feed(said)[:1]:
                self._signer.keep(self._account.check_acknowledgement(each.acknowledgement), each.acknowledgement)
        except (ProtocolViolation, ReceiptRefused) as error:
            logger.debug("an acknowledgement is refused: %s", error)
