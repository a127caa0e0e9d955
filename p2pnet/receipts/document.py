"""The receipts of one answer as a file, which whoever has it can check. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.errors import UsageError

MAX_PARTS = 256
"""Of one document: 32 prompts, each of which changed its worker some times."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """One worker's part of an answer: its receipt as it was signed, and the body of the request that it answers, where
    that was kept. In JSON both are base64."""

    receipt: bytes
    request: bytes | None = None


class ReceiptDocument(msgspec.Struct, frozen=True):
    """All receipts of one request to a gateway, in the order in which the parts were given."""

    id: str
    parts: Annotated[tuple[Part, ...], Meta(max_length=MAX_PARTS)]

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    def without_requests(self) -> ReceiptDocument:
        return ReceiptDocument(self.id, tuple(Part(part.receipt) for part in self.parts))


def read_document(raw: bytes) -> ReceiptDocument:
    """Raises UsageError."""
    try:
        return msgspec.json.decode(raw, type=ReceiptDocument)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"This is no document of receipts: {error}.",
            "Save what a gateway answers at /p2pnet/v1/receipts/ID, or the value of x-p2pnet-receipt.",
        ) from error
