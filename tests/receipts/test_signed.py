"""Receipts and acknowledgements: what is signed is read again, and whatever differs is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from p2pnet.errors import ReceiptRefused
from p2pnet.identity import Identity
from p2pnet.messages import Accepted, ChatPrompt, Finished, GenerateRequest, ImagePart, Message, TextDelta, Usage
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.hashing import AnswerHash, request_hash, text_hash
from p2pnet.receipts.signed import ACKNOWLEDGEMENT_DOMAIN, RECEIPT_DOMAIN, Acknowledgement, Receipt
from p2pnet.receipts.statement import MAX_SIGNED_BYTES, open_statement, seal_statement
from p2pnet.records import SIGNATURE_DOMAIN
from tests.images import png
from tests.receipts.documents import body_of
from tests.stories import DIGEST, NOW_MS, ask, peer, signed

WORKER, GATEWAY, OTHER = peer("worker"), peer("gateway"), peer("other")
REQUEST = ask(max_tokens=8)
FINISHED = Finished("stop", Usage(3, 2))
EVENTS = (Accepted(3, DIGEST), TextDelta("one ", (1,)), TextDelta("two", (2,)))


def account(
    request: GenerateRequest = REQUEST,
    body: bytes = b"request",
    events: tuple[Accepted | TextDelta, ...] = EVENTS,
    worker: Identity = WORKER,
    gateway: Identity = GATEWAY,
) -> Account:
    made = Account(Parties(worker.peer_id, gateway.peer_id), request, request_hash(body), NOW_MS)
    for event in events:
        made.note(event)
    return made


def sealed(of: Account, finished: Finished = FINISHED, signer: Identity = WORKER, **changes: Any) -> bytes:
    return seal_statement(msgspec.structs.replace(of.receipt(finished, NOW_MS + 9), **changes), signer)


def test_a_receipt_says_what_was_sent() -> None:
    receipt = account().check_receipt(sealed(account()), FINISHED)
    assert (receipt.tokens, receipt.text_bytes, receipt.digest, receipt.ended_ms) == (2, 7, DIGEST, NOW_MS + 9)
    assert receipt.text_hash == text_hash(b"one two")


def test_another_image_is_another_request() -> None:
    def hash_of(*images: ImagePart) -> bytes:
        return request_hash(
            body_of(msgspec.structs.replace(REQUEST, prompt=ChatPrompt((Message("user", "", images=images),))))
        )

    given = [(), (ImagePart(png()),), (ImagePart(png(shade=1)),), (ImagePart(png()), ImagePart(png(shade=1)))]
    assert len({hash_of(*images) for images in given}) == len(given)


def test_a_worker_s_clock_is_its_own_affair() -> None:
    told = sealed(account(), began_ms=5, ended_ms=7)
    assert account().check_receipt(told, FINISHED).ended_ms == 7


def test_the_sampler_is_that_of_the_answer() -> None:
    events = (Accepted(3, DIGEST, sampler="gumbel-1"), *EVENTS[1:])
    assert account(events=events).check_receipt(sealed(account(events=events)), FINISHED).sampler == "gumbel-1"


SEEN = account()
FORGED: dict[str, Callable[[], bytes]] = {
    "another request": lambda: sealed(account(body=b"another request")),
    "a replay: the same question under another id": lambda: sealed(account(body=b"request 2")),
    "other ids": lambda: sealed(account(events=(*EVENTS[:2], TextDelta("two", (3,))))),
    "other text": lambda: sealed(account(events=(*EVENTS[:2], TextDelta("ten", (2,))))),
    "more tokens": lambda: sealed(account(), tokens=2000),
    "more computed": lambda: sealed(account(), completion_tokens=2000),
    "another seed": lambda: sealed(account(), seed=7),
    "another model": lambda: sealed(account(), model="larger"),
    "another digest": lambda: sealed(account(), digest="sha256:" + "00" * 32),
    "another sampler": lambda: sealed(account(), sampler="other-1"),
    "another end": lambda: sealed(account(), reason="length"),
    "another worker's, of the same": lambda: sealed(account(worker=OTHER), signer=OTHER),
    "another gateway's, of the same": lambda: sealed(account(gateway=OTHER)),
    "signed by another": lambda: sealed(account(), signer=OTHER),
    "signed as a record": lambda: signed(WORKER, SEEN.receipt(FINISHED, NOW_MS), SIGNATURE_DOMAIN),
    "signed as an acknowledgement": lambda: signed(WORKER, SEEN.receipt(FINISHED, NOW_MS), ACKNOWLEDGEMENT_DOMAIN),
    "an acknowledgement": lambda: seal_statement(SEEN.acknowledgement("received", NOW_MS), WORKER),
    "of a later version": lambda: sealed(account(), version=2),
    "nothing": lambda: b"",
    "no message": lambda: b"\xc1" * 40,
    "too large": lambda: bytes(MAX_SIGNED_BYTES + 1),
    "no hash": lambda: signed(WORKER, {"worker": WORKER.peer_id, "request_hash": b"short"}, RECEIPT_DOMAIN),
    "deeply nested": lambda: signed(WORKER, b"\x91" * 900 + b"\xc0", RECEIPT_DOMAIN),
}


@pytest.mark.parametrize("way", FORGED)
def test_a_receipt_that_is_not_of_what_came_is_refused(way: str) -> None:
    with pytest.raises(ReceiptRefused):
        account().check_receipt(FORGED[way](), FINISHED)


def test_no_byte_of_a_receipt_can_be_changed() -> None:
    told = sealed(account())
    for place in range(len(told)):
        changed = told[:place] + bytes([told[place] ^ 1]) + told[place + 1 :]
        with pytest.raises(ReceiptRefused):
            account().check_receipt(changed, FINISHED)


def test_fields_of_later_versions_are_passed_over() -> None:
    fields = msgspec.to_builtins(account().receipt(FINISHED, NOW_MS), builtin_types=(bytes,))
    assert account().check_receipt(signed(WORKER, {**fields, "mood": 1}, RECEIPT_DOMAIN), FINISHED).tokens == 2


@pytest.mark.parametrize("verdict", ["received", "wrong_receipt"])
def test_an_acknowledgement_is_of_what_the_worker_has_sent(verdict: Any) -> None:
    told = seal_statement(account().acknowledgement(verdict, NOW_MS), GATEWAY)
    said = account().check_acknowledgement(told)
    assert (said.verdict, said.tokens, said.answer_tokens) == (verdict, 2, 2)


INVENTED: dict[str, Callable[[], bytes]] = {
    "of another request": lambda: seal_statement(account(body=b"x").acknowledgement("received", NOW_MS), GATEWAY),
    "of another answer": lambda: seal_statement(
        account(events=EVENTS[:2]).acknowledgement("received", NOW_MS), GATEWAY
    ),
    "of more": lambda: seal_statement(
        msgspec.structs.replace(SEEN.acknowledgement("received", NOW_MS), tokens=10**9), GATEWAY
    ),
    "for another worker": lambda: seal_statement(account(worker=OTHER).acknowledgement("received", NOW_MS), GATEWAY),
    "signed by another": lambda: seal_statement(SEEN.acknowledgement("received", NOW_MS), OTHER),
    "another gateway's": lambda: seal_statement(account(gateway=OTHER).acknowledgement("received", NOW_MS), OTHER),
    "a receipt": lambda: sealed(account(), signer=GATEWAY),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("way", INVENTED)
def test_an_acknowledgement_of_anything_else_is_refused(way: str) -> None:
    with pytest.raises(ReceiptRefused):
        account().check_acknowledgement(INVENTED[way]())


def test_an_acknowledgement_counts_the_tokens_before() -> None:
    resumed = account(ask(resume_tokens=(7, 8, 9)))
    assert resumed.acknowledgement("received", NOW_MS).answer_tokens == 5


def test_either_is_no_substitute_for_the_other() -> None:
    with pytest.raises(ReceiptRefused):
        open_statement(sealed(account()), Acknowledgement)
    with pytest.raises(ReceiptRefused):
        open_statement(seal_statement(account().acknowledgement("received", NOW_MS), GATEWAY), Receipt)


@pytest.mark.parametrize(
    ("deltas", "tokens"),
    [
        ([TextDelta("a", (1, 2))], 2),
        ([TextDelta("a"), TextDelta("b", tokens=3), TextDelta("")], 4),
        ([TextDelta("echoed", (5, 6), is_prompt=True)], 0),
    ],
)
def test_tokens_are_counted_as_far_as_they_are_known(deltas: list[TextDelta], tokens: int) -> None:
    answer = AnswerHash(1)
    for delta in deltas:
        answer.note(delta)
    assert answer.tokens == tokens


def test_answers_of_one_request_do_not_run_into_one_another() -> None:
    one, other = AnswerHash(2), AnswerHash(2)
    for delta in (TextDelta("a", (1,), 0), TextDelta("b", (2,), 1)):
        one.note(delta)
    for delta in (TextDelta("ab", (1, 2), 0), TextDelta("", (), 1)):
        other.note(delta)
    assert one.ids_hash != other.ids_hash and one.text_hash != other.text_hash
    assert one.text_hash == text_hash(b"a", b"b")


def test_a_delta_cut_otherwise_has_the_same_hash() -> None:
    cut, whole = AnswerHash(1), AnswerHash(1)
    for text, token_id in (("a", 1), ("é", 2)):
        cut.note(TextDelta(text, (token_id,)))
    whole.note(TextDelta("aé", (1, 2)))
    assert (cut.ids_hash, cut.text_hash, cut.text_bytes) == (whole.ids_hash, whole.text_hash, 3)


def test_the_largest_receipt_fits() -> None:
    large = Receipt(
        *(WORKER.peer_id, GATEWAY.peer_id, bytes(32), bytes(32), bytes(32), "m" * 128, "content_filter"),
        *((1 << 53) - 1, (1 << 53) - 1, (1 << 63) - 1, DIGEST, "s" * 32),
        *[(1 << 53) - 1] * 4,
    )
    assert open_statement(seal_statement(large, WORKER), Receipt) == large
