"""A document of receipts, checked by whoever was given it: as a table of what holds and what does not."""

from __future__ import annotations

import pytest

from p2pnet.errors import UsageError
from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from p2pnet.receipts.checking import check_texts, checked
from p2pnet.receipts.document import Part, ReceiptDocument, read_document
from tests.receipts.documents import body_of, part_of
from tests.stories import ask, peer, signed

END = Finished("stop", Usage(1, 2))
HELLO = part_of(ask(), (Accepted(1), TextDelta("hello", (1,)), END))
REST = part_of(ask(resume_tokens=(9,)), (Accepted(1), TextDelta(" rest\n", (1,)), END))
NOTHING = part_of(ask(), (Accepted(1), END))
TWO = part_of(ask(n=2), (Accepted(1), TextDelta("a", (1,)), TextDelta("b", (2,), 1), END))


def document(*parts: Part) -> ReceiptDocument:
    return ReceiptDocument("receipt-1", parts)


def test_a_document_is_read_again() -> None:
    assert read_document(document(HELLO, REST).to_json()) == document(HELLO, REST)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"\xff", b'{"id":"a","parts":[{"receipt":"!"}]}', b"[" * 5000])
def test_what_is_no_document_is_refused_with_a_fix(raw: bytes) -> None:
    with pytest.raises(UsageError, match="no document") as error:
        read_document(raw)
    assert error.value.fix


def test_a_request_comes_with_its_receipt_or_without() -> None:
    with_request, without = checked(document(HELLO, Part(REST.receipt)))
    assert with_request.request == ask() and without.request is None


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (document(), "no receipt"),
        (document(Part(HELLO.receipt[:-1] + b"\x00")), "does not hold"),
        (document(HELLO, Part(HELLO.receipt, body_of(ask(request_id="other")))), "Receipt 2 is of another request"),
        (document(Part(signed(peer("liar"), b"no receipt"))), "does not hold"),
    ],
)
def test_what_does_not_hold_is_named(broken: ReceiptDocument, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(broken)


@pytest.mark.parametrize(
    ("parts", "answers"),
    [
        ((HELLO,), [b"hello"]),
        ((HELLO,), [b"hello\n"]),
        ((REST,), [b"what went before, and the rest\n"]),
        ((TWO,), [b"a", b"b"]),
        ((HELLO, REST), [b"hello", b" rest\n"]),
        ((HELLO, REST), [b"hello rest\n"]),
        ((NOTHING, HELLO), [b"hello\n"]),
    ],
)
def test_an_answer_that_was_signed(parts: tuple[Part, ...], answers: list[bytes]) -> None:
    check_texts(checked(document(*parts)), answers)


@pytest.mark.parametrize(
    ("parts", "answers"),
    [
        ((HELLO,), [b"hullo"]),
        ((HELLO,), [b""]),
        ((HELLO,), [b"hello\n\n"]),
        ((HELLO,), [b"hello", b"hello"]),
        ((TWO,), [b"b", b"a"]),
        ((TWO,), [b"ab"]),
        ((HELLO, REST), [b"hello"]),
        ((HELLO, REST), [b"hello rest\n", b"", b""]),
        ((NOTHING, HELLO), [b"hullo"]),
        ((HELLO, REST), [b" rest\n", b"hello"]),
    ],
)
def test_an_answer_that_was_not(parts: tuple[Part, ...], answers: list[bytes]) -> None:
    with pytest.raises(UsageError):
        check_texts(checked(document(*parts)), answers)
