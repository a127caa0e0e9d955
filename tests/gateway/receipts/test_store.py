"""Receipts that are kept: for their caller alone, and no more than there is room for."""

from __future__ import annotations

from gateway.receipts.store import ENTRY_BYTES, ReceiptStore
from p2pnet.receipts.document import Part, ReceiptDocument, read_document


def document(name: str, request_bytes: int = 100) -> ReceiptDocument:
    return ReceiptDocument(name, (Part(b"receipt", bytes(request_bytes)),))


def test_what_is_kept_is_found_by_its_caller_alone() -> None:
    store = ReceiptStore()
    store.keep("anna", document("a"))
    found = store.find("anna", "a")
    assert found is not None and read_document(found) == document("a")
    assert store.find("anna", "b") is None and store.find("bob", "a") is None


def test_a_caller_that_has_no_room_loses_its_own_oldest() -> None:
    store = ReceiptStore(max_bytes=16 * ENTRY_BYTES)
    store.keep("bob", document("his"))
    for number in range(100):
        store.keep("anna", document(str(number)))
    assert store.kept_bytes <= 16 * ENTRY_BYTES
    assert store.find("bob", "his") is not None
    assert store.find("anna", "99") is not None and store.find("anna", "0") is None


def test_what_is_too_large_is_kept_without_its_requests() -> None:
    store = ReceiptStore(max_bytes=16 * ENTRY_BYTES)
    store.keep("anna", document("large", 16 * ENTRY_BYTES))
    found = store.find("anna", "large")
    assert found is not None and read_document(found) == document("large").without_requests()


def test_a_gateway_that_is_full_keeps_none_for_one_who_has_none() -> None:
    store = ReceiptStore(max_bytes=ENTRY_BYTES)
    store.keep("anna", document("a"))
    assert store.find("anna", "a") is None and store.kept_bytes == 0
