"""Checks a document of receipts, as whoever was given one can, anywhere: signatures, requests, texts. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from p2pnet.errors import ReceiptRefused, UsageError
from p2pnet.messages import GenerateRequest
from p2pnet.receipts.document import ReceiptDocument
from p2pnet.receipts.hashing import request_hash, text_hash
from p2pnet.receipts.signed import Acknowledgement, Receipt
from p2pnet.receipts.statement import open_statement


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
        receipt = open_statement(sealed, Receipt)
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


def read_acknowledgements(raw: bytes) -> list[Acknowledgement]:
    """What gateways have signed, one in base64 on each line, each once. Raises UsageError where one does not hold."""
    found: dict[bytes, Acknowledgement] = {}
    for number, line in enumerate(raw.splitlines(), 1):
        try:
            said = open_statement(base64.b64decode(line, validate=True), Acknowledgement)
        except (ReceiptRefused, binascii.Error) as error:
            raise UsageError(
                f"Line {number} is no gateway's signature: {error}.",
                "Give a document of receipts, or what `p2pnet given --signed` prints.",
            ) from error
        found[said.request_hash + said.worker.encode()] = said
    return list(found.values())


def check_texts(parts: Sequence[Checked], answers: Sequence[bytes]) -> None:
    """Raises UsageError where an answer is not what was signed. A newline at its end that was not signed is passed
    over: editors and shells add it. One answer may have several parts, and one part several answers; else each has its
    own. Of an answer that has gone on elsewhere the end was signed, by who has come to it."""
    receipts = [part.receipt for part in parts]
    if len(answers) != 1 and len(receipts) not in (1, len(answers)):
        raise UsageError(
            f"There are {len(receipts)} receipts, and {len(answers)} answers.", "Give --answer once for each, in order."
        )
    without_newline = [answer.removesuffix(b"\n") for answer in answers]
    wrong = _first_wrong(receipts, answers)
    if wrong is not None and _first_wrong(receipts, without_newline) is not None:
        raise UsageError(
            f"The answer is not the one that receipt {wrong} is of.",
            "Give the text as the model wrote it: all of it, with what it thought, and nothing else.",
        )


def _first_wrong(receipts: Sequence[Receipt], answers: Sequence[bytes]) -> int | None:
    """The number of the first receipt that is not of these answers, from 1."""
    if len(answers) == 1:
        of_each = [[text] for text in _cut(answers[0], [receipt.text_bytes for receipt in receipts])]
    else:
        of_each = [list(answers)] if len(receipts) == 1 else [[answer] for answer in answers]
    signed = (receipt.text_hash == text_hash(*texts) for receipt, texts in zip(receipts, of_each, strict=True))
    return next((number for number, is_right in enumerate(signed, 1) if not is_right), None)


def _cut(answer: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The end of an answer, in parts of these sizes."""
    place = max(0, len(answer) - sum(sizes))
    parts = []
    for size in sizes:
        parts.append(answer[place : place + size])
        place += size
    return parts
