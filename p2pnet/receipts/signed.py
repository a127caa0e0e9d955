"""The two statements about an answer: the worker's receipt, and the gateway's acknowledgement of it. Pure.

A statement names both peers, and the
hash of a request that has an id and a seed of its own: so it says nothing of another request, and nobody else's.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from p2pnet.errors import ReceiptRefused
from p2pnet.messages import Count, Digest, FinishReason, ModelId, SamplerName
from p2pnet.receipts.hashing import HASH_BYTES
from p2pnet.receipts.statement import STATEMENT_VERSION
from p2pnet.receipts.vouch import MAX_VOUCH_BYTES
from p2pnet.records import Milliseconds, PeerId

RECEIPT_DOMAIN = "p2pnet/receipt/1"
ACKNOWLEDGEMENT_DOMAIN = "p2pnet/acknowledgement/1"

Hash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


EndReason = FinishReason | Literal["failed"]
"""How an answer ended, or a part of one: `failed` is one that the worker broke off and said so."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker has given to a gateway for one request. `tokens` and `text_bytes` are what it has sent of the
    answer, the usage is what it says that it has computed. Times are Unix milliseconds by its own clock. `sampler` is
    how its tokens are chosen, where it tells."""

    domain: ClassVar[str] = RECEIPT_DOMAIN

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
    version: int = STATEMENT_VERSION

    @property
    def signer(self) -> str:
        return self.worker


Verdict = Literal["received", "wrong_receipt"]
"""`received`: the receipt says what has come. `wrong_receipt`: it does not."""


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a gateway has received from a worker for one request: `tokens` of an answer that had `answer_tokens` in the
    end, those of workers before it included, as far as their ids are known. `total` is what it has received from this
    worker in all, as its own book has it: what is older counts less. `vouch` is a sealed `Vouch` for this gateway, if a
    volunteer has vouched for it. These two are the gateway's own affair."""

    domain: ClassVar[str] = ACKNOWLEDGEMENT_DOMAIN

    gateway: PeerId
    worker: PeerId
    request_hash: Hash
    ids_hash: Hash
    model: ModelId
    verdict: Verdict
    issued_ms: Milliseconds
    tokens: Count = 0
    answer_tokens: Count = 0
    total: Count = 0
    vouch: Annotated[bytes, Meta(max_length=MAX_VOUCH_BYTES)] = b""
    version: int = STATEMENT_VERSION

    @property
    def signer(self) -> str:
        return self.gateway


class Acknowledged(msgspec.Struct, frozen=True, omit_defaults=True, tag="acknowledged"):
    """What a client may send after a Finished that has a receipt: a sealed Acknowledgement."""

    acknowledgement: bytes


T = TypeVar("T", Receipt, Acknowledgement)


def check_agrees(said: T, seen: T) -> None:
    """Raises ReceiptRefused, naming the field, where a statement does not say what was seen."""
    for name in said.__struct_fields__:
        if getattr(said, name) != getattr(seen, name):
            raise ReceiptRefused(f"its {name} is not what it should be")
