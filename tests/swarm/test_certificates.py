"""Certificates of membership as a table: the one that holds, and each way in which one does not."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from p2pnet.errors import NotAMember
from p2pnet.identity import Identity
from p2pnet.swarm.certificates import (
    CERTIFICATE_DOMAIN,
    DELEGATION_DOMAIN,
    Certificate,
    Delegation,
    certify,
    check_certificate,
    check_delegation,
    delegate,
)
from tests.stories import NOW_MS, peer

SWARM, OTHER_SWARM = peer("swarm"), peer("other swarm")
INVITATION, OTHER_INVITATION = peer("invitation"), peer("other invitation")
MEMBER, STRANGER = peer("member"), peer("stranger")
ENDS_MS = NOW_MS + 1000

DELEGATION = delegate(SWARM, INVITATION.peer_id, ENDS_MS)


def made(
    signer: Identity = INVITATION,
    delegation: Delegation = DELEGATION,
    swarm: Identity = SWARM,
    member: Identity = MEMBER,
    expires_ms: int = ENDS_MS,
) -> Certificate:
    return certify(signer, delegation, swarm.peer_id, member.peer_id, expires_ms)


HONEST = made()


def signed_by_member() -> Certificate:
    """A chain of three: a member lets somebody else in, with its own certificate for a delegation."""
    passed_on = Delegation(MEMBER.peer_id, HONEST.expires_ms, HONEST.signature)
    return made(signer=MEMBER, delegation=passed_on, member=STRANGER)


REFUSED: dict[str, tuple[Certificate, Identity, str]] = {
    "expired": (made(expires_ms=NOW_MS), MEMBER, "has expired"),
    "another peer's": (HONEST, STRANGER, "not this peer's"),
    "of another swarm": (
        made(swarm=OTHER_SWARM, delegation=delegate(OTHER_SWARM, INVITATION.peer_id, ENDS_MS)),
        MEMBER,
        "not of this swarm",
    ),
    "for another swarm, by a key that two let in": (made(swarm=OTHER_SWARM), MEMBER, "not of this swarm"),
    "let in by a stranger": (made(delegation=delegate(STRANGER, INVITATION.peer_id, ENDS_MS)), MEMBER, "not of this"),
    "by a key that nobody let in": (made(signer=OTHER_INVITATION), MEMBER, "not of this swarm"),
    "with another's delegation": (
        made(signer=OTHER_INVITATION, delegation=msgspec.structs.replace(DELEGATION, invitation_id=MEMBER.peer_id)),
        MEMBER,
        "not of this swarm",
    ),
    "let in for longer than was signed": (
        made(delegation=msgspec.structs.replace(DELEGATION, expires_ms=ENDS_MS + 1)),
        MEMBER,
        "not of this swarm",
    ),
    "longer than its invitation": (made(expires_ms=ENDS_MS + 1), MEMBER, "outlasts its invitation"),
    "a chain of three": (signed_by_member(), STRANGER, "not of this swarm"),
    "a delegation for a certificate": (
        Certificate(DELEGATION, DELEGATION.expires_ms, DELEGATION.signature),
        INVITATION,
        "not of this swarm",
    ),
    "signed for another purpose": (
        msgspec.structs.replace(
            HONEST, signature=INVITATION.sign(DELEGATION_DOMAIN, f"{SWARM.peer_id} {ENDS_MS}".encode())
        ),
        MEMBER,
        "not of this swarm",
    ),
}


def test_a_certificate_that_holds() -> None:
    check_certificate(HONEST, SWARM.peer_id, MEMBER.peer_id, NOW_MS)
    check_certificate(made(expires_ms=NOW_MS + 1), SWARM.peer_id, MEMBER.peer_id, NOW_MS)
    check_delegation(DELEGATION, SWARM.peer_id, NOW_MS)


@pytest.mark.parametrize(("certificate", "member", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_certificate_that_does_not(certificate: Certificate, member: Identity, reason: str) -> None:
    with pytest.raises(NotAMember, match=reason):
        check_certificate(certificate, SWARM.peer_id, member.peer_id, NOW_MS)


@pytest.mark.parametrize(
    ("delegation", "reason"),
    [
        (DELEGATION, "has expired"),
        (delegate(OTHER_SWARM, INVITATION.peer_id, ENDS_MS + 1), "not of this swarm"),
        (msgspec.structs.replace(DELEGATION, expires_ms=ENDS_MS + 1), "not of this swarm"),
    ],
)
def test_a_delegation_that_does_not_hold(delegation: Delegation, reason: str) -> None:
    with pytest.raises(NotAMember, match=reason):
        check_delegation(delegation, SWARM.peer_id, ENDS_MS)


def flipped(data: bytes) -> Iterator[bytes]:
    """The data with one bit of it changed, one after the other."""
    for position in range(8 * len(data)):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        yield bytes(changed)


def test_a_certificate_with_any_bit_flipped_is_none() -> None:
    decode = msgspec.msgpack.Decoder(Certificate).decode
    for changed in flipped(msgspec.msgpack.encode(HONEST)):
        try:
            certificate = decode(changed)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if certificate != HONEST:
            with pytest.raises(NotAMember):
                check_certificate(certificate, SWARM.peer_id, MEMBER.peer_id, NOW_MS)


def test_what_is_signed_is_as_the_page_says() -> None:
    assert DELEGATION.signature == SWARM.sign(
        DELEGATION_DOMAIN, f"{SWARM.peer_id} {INVITATION.peer_id} {ENDS_MS}".encode()
    )
    assert HONEST.signature == INVITATION.sign(
        CERTIFICATE_DOMAIN, f"{SWARM.peer_id} {INVITATION.peer_id} {MEMBER.peer_id} {ENDS_MS}".encode()
    )
