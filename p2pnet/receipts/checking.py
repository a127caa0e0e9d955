"""Checks a document of receipts, as whoever was given one can, anywhere: signatures, requests, texts. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from p2pnet.errors import ReceiptRefused, UsageError
from p2pnet.messages import GenerateRequest
from p2pnet.receipts.document import ReceiptDocument
from p2pnet.receipts.hashing import request_hash, text_hash
from p2pnet.receipts.signed import Receipt, open_receipt


@dataclass(frozen=True)
class Checked:
    """A part whose signature is right, and the request that it is of, where the document has it."""

    receipt: Receipt
    request: GenerateRequest | None


def checked(document: ReceiptDocument) -> list[Checked]:
    """The parts of a document. Raises UsageError where one is not what its worker has signed."""
    if not document.parts:
        raise UsageError(
            "There is no receipt in this document.",
            f"A large one is fetched from the gateway: /p2pnet/v1/receipts/{document.id}",
        )
    return [_checked(number, part.receipt, part.request) for number, part in enumerate(document.parts, 1)]


def _checked(number: int, sealed: bytes, body: bytes | None) -> Checked:
    try:
        receipt = open_receipt(sealed)
    except ReceiptRefused as error:
        raise UsageError(f"Receipt {number} does not hold: {error}.", "It proves nothing: ask for another.") from error
    if body is None:
        return Checked(receipt, None)
    if request_hash(body) != receipt.request_hash:
        raise UsageError(
            f"Receipt {number} is of another request than the one beside it.",
            "Do not believe whoever put them together.",
        )
    try:
        return Checked(receipt, msgspec.msgpack.decode(body, type=GenerateRequest))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"The request of receipt {number} cannot be read: {error}.", "Use a newer p2pnet.") from error


def check_texts(parts: Sequence[Checked], answers: Sequence[bytes]) -> None:
    """Raises UsageError where an answer is not what was signed. One part may have several answers, several parts have
    one each. A newline at its end that was not signed is passed over: editors and shells add it. Of an answer that has
    gone on elsewhere its end was signed by who ended it."""
    of_each = [answers] if len(parts) == 1 else [[answer] for answer in answers]
    if len(of_each) != len(parts):
        raise UsageError(
            f"There are {len(parts)} receipts, and {len(answers)} answers.", "Give --answer once for each, in order."
        )
    for number, (part, texts) in enumerate(zip(parts, of_each, strict=True), 1):
        if not _is_signed(part.receipt, texts):
            raise UsageError(
                f"The answer is not the one that receipt {number} is of.",
                "Give the text as the model wrote it: all of it, with what it thought, and nothing else.",
            )


def _is_signed(receipt: Receipt, texts: Sequence[bytes]) -> bool:
    without_newline = [text.removesuffix(b"\n") for text in texts]
    return any(receipt.text_hash == text_hash(*_ends(receipt, each)) for each in (texts, without_newline))


def _ends(receipt: Receipt, texts: Sequence[bytes]) -> Sequence[bytes]:
    """Of a single answer as much as was signed, from its end."""
    if len(texts) != 1:
        return texts
    return [texts[0][max(0, len(texts[0]) - receipt.text_bytes) :]]
