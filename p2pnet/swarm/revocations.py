"""The list of what a swarm's key has revoked: peers, and invitations with all who came through them.

Knows nothing of how it spreads, nor of clocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated

import msgspec
from msgspec import Meta

from p2pnet.errors import NotAMember, RecordRefused
from p2pnet.identity import Identity, verify
from p2pnet.messages import Count
from p2pnet.records import PeerId, Signature
from p2pnet.swarm.certificates import Certificate

REVOCATIONS_DOMAIN = "p2pnet/swarm/revocations/1"

MAX_REVOKED = 128
"""A list must fit what one record of the DHT carries. Who leaves takes one place, if each was invited alone, and gives
it back when the membership would have ended anyway."""

FINGERPRINT_BYTES = 16
Fingerprint = Annotated[bytes, Meta(min_length=FINGERPRINT_BYTES, max_length=FINGERPRINT_BYTES)]


class RevocationList(msgspec.Struct, frozen=True, array_like=True):
    """The fingerprints of what is revoked. The list with the largest `sequence` is the one that counts."""

    swarm_id: PeerId
    sequence: Count
    revoked: Annotated[tuple[Fingerprint, ...], Meta(max_length=MAX_REVOKED)]


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    payload: bytes
    signature: Signature


_decode_envelope = msgspec.msgpack.Decoder(_Envelope).decode
_decode_list = msgspec.msgpack.Decoder(RevocationList).decode


def fingerprint(revoked_id: str) -> bytes:
    """What stands for a peer id, or an invitation's id, in the list."""
    return sha256(revoked_id.encode()).digest()[:FINGERPRINT_BYTES]


def seal_revocations(swarm: Identity, sequence: int, revoked: Iterable[str]) -> bytes:
    """Sign a list of ids, MAX_REVOKED at most."""
    payload = msgspec.msgpack.encode(RevocationList(swarm.peer_id, sequence, tuple(map(fingerprint, revoked))))
    return msgspec.msgpack.encode(_Envelope(payload, swarm.sign(REVOCATIONS_DOMAIN, payload)))


def open_revocations(sealed: bytes, swarm_id: str) -> RevocationList:
    """Check a list that anybody may have handed on. Raises RecordRefused with the reason."""
    try:
        envelope = _decode_envelope(sealed)
        revocations = _decode_list(envelope.payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordRefused(f"not a list of what is revoked: {error}") from error
    if revocations.swarm_id != swarm_id:
        raise RecordRefused("a list of another swarm")
    if not verify(swarm_id, REVOCATIONS_DOMAIN, envelope.payload, envelope.signature):
        raise RecordRefused("the signature is not the swarm's")
    return revocations


def check_not_revoked(certificate: Certificate, peer_id: str, revoked: frozenset[bytes]) -> None:
    """Raises NotAMember with the reason."""
    if fingerprint(peer_id) in revoked:
        raise NotAMember("the peer is revoked")
    if fingerprint(certificate.invitation_id) in revoked:
        raise NotAMember("the invitation that the peer came through is revoked")
