"""The two statements about an answer: the worker's receipt, and the gateway's acknowledgement of it. Pure.

Each is msgpack in a signed envelope, as records are, under a domain of its own. A statement names both peers, and the
hash of a request that has an id and a seed of its own: so it says nothing of another request, and nobody else's.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from p2pnet.errors import ReceiptRefused
from p2pnet.identity import Identity, verify
from p2pnet.messages import Count, Digest, FinishReason, ModelId, SamplerName
from p2pnet.receipts.hashing import HASH_BYTES
from p2pnet.records import Milliseconds, PeerId, Signature

RECEIPT_VERSION = 1
RECEIPT_DOMAIN = "p2pnet/receipt/1"
ACKNOWLEDGEMENT_DOMAIN = "p2pnet/acknowledgement/1"

MAX_SIGNED_BYTES = 2048
"""Of a sealed receipt or acknowledgement, which has some 700: whoever keeps thousands knows what they take."""

Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


EndReason = FinishReason | Literal["failed"]
"""How an answer ended, or a part of one: `failed` is one that the worker broke off and said so."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker has given to a gateway for one request. `tokens` and `text_bytes` are what it has sent of the
    answer, the usage is what it says that it has computed. Times are Unix milliseconds by its own clock. `sampler` is
    how its tokens are chosen, where it tells."""

    worker: PeerId
    gateway: PeerId
    request_hash: Hash
    ids_hash: Hash
    text_hash: Hash
    model: ModelId
    reason: EndReason
    began_ms: Milliseconds
    ended_ms: Milliseconds
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 0
    digest: Digest | None = None
    sampler: SamplerName = ""
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    tokens: Count = 0
    text_bytes: Count = 0
    version: int = RECEIPT_VERSION


Verdict = Literal["received", "wrong_receipt"]
"""`received`: the receipt says what has come. `wrong_receipt`: it does not."""


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gateway has received from a worker for one request: `tokens` of an answer that had `answer_tokens` in the
    end, those of workers before it included, as far as their ids are known."""

    gateway: PeerId
    worker: PeerId
    request_hash: Hash
    ids_hash: Hash
    model: ModelId
    verdict: Verdict
    issued_ms: Milliseconds
    tokens: Count = 0
    answer_tokens: Count = 0
    version: int = RECEIPT_VERSION


class Acknowledged(msgspec.Struct, frozen=True, omit_defaults=True, tag="acknowledged"):
    """What a client may send after a Finished that has a receipt: a sealed Acknowledgement."""

    acknowledgement: bytes


class _Envelope(msgspec.Struct, frozen=True):
    payload: bytes
    signature: Signature


T = TypeVar("T", Receipt, Acknowledgement)

_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
_encode = msgspec.msgpack.Encoder().encode


def seal_receipt(receipt: Receipt, identity: Identity) -> bytes:
    return _seal(receipt, RECEIPT_DOMAIN, identity)


def open_receipt(sealed: bytes) -> Receipt:
    """Check a stranger's receipt: its form, and its worker's signature. Raises ReceiptRefused with the reason."""
    envelope, receipt = _decoded(sealed, Receipt)
    _check(receipt.worker, RECEIPT_DOMAIN, envelope, receipt.version)
    return receipt


def seal_acknowledgement(acknowledgement: Acknowledgement, identity: Identity) -> bytes:
    return _seal(acknowledgement, ACKNOWLEDGEMENT_DOMAIN, identity)


def open_acknowledgement(sealed: bytes) -> Acknowledgement:
    """The same for a gateway's acknowledgement."""
    envelope, acknowledgement = _decoded(sealed, Acknowledgement)
    _check(acknowledgement.gateway, ACKNOWLEDGEMENT_DOMAIN, envelope, acknowledgement.version)
    return acknowledgement


def check_agrees(said: T, seen: T) -> None:
    """Raises ReceiptRefused, naming the field, where a statement does not say what was seen."""
    for name in said.__struct_fields__:
        if getattr(said, name) != getattr(seen, name):
            raise ReceiptRefused(f"its {name} is not what it should be")


def _seal(statement: Receipt | Acknowledgement, domain: str, identity: Identity) -> bytes:
    payload = _encode(statement)
    return _encode(_Envelope(payload, identity.sign(domain, payload)))


def _decoded(sealed: bytes, kind: type[T]) -> tuple[_Envelope, T]:
    if len(sealed) > MAX_SIGNED_BYTES:
        raise ReceiptRefused(f"it has {len(sealed)} bytes, {MAX_SIGNED_BYTES} allowed")
    try:
        envelope = _decode_envelope(sealed)
        return envelope, msgspec.msgpack.decode(envelope.payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReceiptRefused(f"it is none: {error}") from error


def _check(signer: str, domain: str, envelope: _Envelope, version: int) -> None:
    if version != RECEIPT_VERSION:
        raise ReceiptRefused(f"it is of version {version}, {RECEIPT_VERSION} understood")
    if not verify(signer, domain, envelope.payload, envelope.signature):
        raise ReceiptRefused("the signature is not its peer's")
