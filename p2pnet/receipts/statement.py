"""A statement that a peer signs: msgpack in a signed envelope, as records are, under a domain of its own. Pure.

Knows nothing of what is stated: see `signed`, `vouch` and `p2pnet.claims`.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, TypeVar

import msgspec

from p2pnet.errors import ReceiptRefused
from p2pnet.identity import Identity, verify
from p2pnet.records import Signature

STATEMENT_VERSION = 1

MAX_SIGNED_BYTES = 2048
"""Of a sealed statement: a receipt has some 700, an acknowledgement with a vouch 900. Whoever keeps thousands
knows what they take."""


class Statement(Protocol):
    """A frozen msgspec.Struct that says under which `domain` it is signed, and by whom."""

    domain: ClassVar[str]

    @property
    def version(self) -> int:
        """Of its form."""

    @property
    def signer(self) -> str:
        """The peer id whose signature it takes."""


class _Envelope(msgspec.Struct, frozen=True):
    payload: bytes
    signature: Signature


T = TypeVar("T", bound=Statement)

_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
_encode = msgspec.msgpack.Encoder().encode


def seal_statement(statement: Statement, identity: Identity) -> bytes:
    payload = _encode(statement)
    return _encode(_Envelope(payload, identity.sign(statement.domain, payload)))


def open_statement(sealed: bytes, kind: type[T]) -> T:
    """Check a stranger's statement: its form, and its signer's signature. Raises ReceiptRefused with the reason."""
    if len(sealed) > MAX_SIGNED_BYTES:
        raise ReceiptRefused(f"it has {len(sealed)} bytes, {MAX_SIGNED_BYTES} allowed")
    try:
        envelope = _decode_envelope(sealed)
        statement = msgspec.msgpack.decode(envelope.payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ReceiptRefused(f"it is none: {error}") from error
    if statement.version != STATEMENT_VERSION:
        raise ReceiptRefused(f"it is of version {statement.version}, {STATEMENT_VERSION} understood")
    if not verify(statement.signer, kind.domain, envelope.payload, envelope.signature):
        raise ReceiptRefused("the signature is not its peer's")
    return statement
