"""Keeps the receipts that clients have asked for, with the requests that they are of. In memory alone.

Whoever asks for one must know its id, which nobody can guess, and be the caller that it was made for.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from gateway.interface import Receipts
from gateway.shares import Shares
from p2pnet.receipts.document import ReceiptDocument

MAX_RECEIPT_BYTES = 32 << 20
"""Of all callers together: some ten thousand requests of usual length. One that is alone may have half of it."""

ENTRY_BYTES = 1024
"""What keeping a document costs besides its bytes."""


class ReceiptStore:
    """A caller that has no room left loses its oldest."""

    def __init__(self, max_bytes: int = MAX_RECEIPT_BYTES) -> None:
        self._kept: dict[str, OrderedDict[str, bytes]] = {}
        """By caller, oldest first."""
        self._shares = Shares(max_bytes)

    @property
    def kept_bytes(self) -> int:
        return self._shares.taken

    def open(self, caller: str) -> Receipts:
        """Gathers the receipts of one request, and keeps them once it is complete."""
        return Receipts(partial(self.keep, caller))

    def keep(self, caller: str, document: ReceiptDocument) -> None:
        """What is larger than all that this caller may have is kept without its requests, or not at all."""
        for kept in (document, document.without_requests()):
            if self._has_kept(caller, document.id, kept.to_json()):
                return

    def find(self, caller: str, receipt_id: str) -> bytes | None:
        """As JSON; None where this caller has no such document, or has it no more."""
        return self._kept[caller].get(receipt_id) if caller in self._kept else None

    def _has_kept(self, caller: str, receipt_id: str, raw: bytes) -> bool:
        size = ENTRY_BYTES + len(raw)
        while not self._shares.has_room(caller, size):
            if caller not in self._kept:
                return False
            self._drop_oldest(caller)
        self._kept.setdefault(caller, OrderedDict())[receipt_id] = raw
        self._shares.take(caller, size)
        return True

    def _drop_oldest(self, caller: str) -> None:
        _, raw = self._kept[caller].popitem(last=False)
        self._shares.give_back(caller, ENTRY_BYTES + len(raw))
        if not self._kept[caller]:
            del self._kept[caller]
