"""Documents of receipts as honest workers and gateways make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from p2pnet.messages import Accepted, Failed, Finished, GenerateRequest, TextDelta
from p2pnet.receipts.account import Account, Parties
from p2pnet.receipts.document import Part, ReceiptDocument
from p2pnet.receipts.hashing import request_hash
from p2pnet.receipts.statement import seal_statement
from p2pnet.wire.codec import LENGTH_BYTES, MAX_REQUEST_FRAME_BYTES, encode_frame
from p2pnet.worker.backend import Backend
from tests.stories import NOW_MS, peer


def body_of(request: GenerateRequest) -> bytes:
    return encode_frame(request, MAX_REQUEST_FRAME_BYTES)[LENGTH_BYTES:]


def part_of(
    request: GenerateRequest, events: Iterable[Accepted | TextDelta | Finished | Failed], worker: str = "worker"
) -> Part:
    body = body_of(request)
    parties = Parties(peer(worker).peer_id, peer("gateway").peer_id)
    account = Account(parties, request, request_hash(body), NOW_MS)
    *before, last = events
    for event in before:
        assert not isinstance(event, Failed)
        account.note(event)
    assert isinstance(last, Finished | Failed)
    return Part(seal_statement(account.receipt(last, NOW_MS + 900), peer(worker)), body)


async def answered(backend: Backend, *requests: GenerateRequest) -> ReceiptDocument:
    """By this backend, one part for each request."""
    parts = [part_of(request, [event async for event in _events(backend, request)]) for request in requests]
    return ReceiptDocument("receipt-1", tuple(parts))


async def _events(backend: Backend, request: GenerateRequest) -> AsyncIterator[Accepted | TextDelta | Finished]:
    async for event in backend.generate(request):
        yield event
