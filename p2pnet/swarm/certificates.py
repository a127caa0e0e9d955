"""Certificates of membership: a swarm's key lets an invitation's key certify members, and that certifies peer ids.

A certificate says only what its reader cannot know: swarm and peer are those at hand, so one of another swarm, or of
another peer, is one whose signature does not hold. Knows nothing of who is revoked, nor of clocks.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from p2pnet.errors import NotAMember
from p2pnet.identity import Identity, verify
from p2pnet.records import Milliseconds, PeerId, Signature

DELEGATION_DOMAIN = "p2pnet/swarm/delegation/1"
CERTIFICATE_DOMAIN = "p2pnet/swarm/certificate/1"

MAX_CHECKED = 1 << 12
"""Certificates whose signatures are remembered to hold or not, 2 MB of them: more than a swarm has members that can be
listed. A signature takes 0.1 ms, and who polls reads the same ones each time."""


class Delegation(msgspec.Struct, frozen=True, array_like=True):
    """The swarm's key lets an invitation's key certify members. None of those is one for longer than this lasts."""

    invitation_id: PeerId
    expires_ms: Milliseconds
    signature: Signature


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """An invitation's key certifies that a peer is a member."""

    delegation: Delegation
    expires_ms: Milliseconds
    signature: Signature

    @property
    def invitation_id(self) -> str:
        return self.delegation.invitation_id


def delegate(swarm: Identity, invitation_id: str, expires_ms: int) -> Delegation:
    """Let an invitation's key certify members of the swarm."""
    signature = swarm.sign(DELEGATION_DOMAIN, _delegated(swarm.peer_id, invitation_id, expires_ms))
    return Delegation(invitation_id, expires_ms, signature)


def certify(invitation: Identity, delegation: Delegation, swarm_id: str, peer_id: str, expires_ms: int) -> Certificate:
    """Make a peer a member, with the key of the invitation that the delegation is for."""
    signature = invitation.sign(CERTIFICATE_DOMAIN, _certified(swarm_id, delegation, peer_id, expires_ms))
    return Certificate(delegation, expires_ms, signature)


def check_delegation(delegation: Delegation, swarm_id: str, now_ms: int) -> None:
    """Raises NotAMember with the reason."""
    payload = _delegated(swarm_id, delegation.invitation_id, delegation.expires_ms)
    if not verify(swarm_id, DELEGATION_DOMAIN, payload, delegation.signature):
        raise NotAMember("the invitation is not of this swarm")
    if delegation.expires_ms <= now_ms:
        raise NotAMember("the invitation has expired")


def check_certificate(certificate: Certificate, swarm_id: str, peer_id: str, now_ms: int) -> None:
    """Raises NotAMember with the reason."""
    if not _is_signed(certificate, swarm_id, peer_id):
        raise NotAMember("the certificate is not of this swarm, or not this peer's")
    if certificate.expires_ms > certificate.delegation.expires_ms:
        raise NotAMember("the certificate outlasts its invitation")
    if certificate.expires_ms <= now_ms:
        raise NotAMember("the certificate has expired")


@lru_cache(MAX_CHECKED)
def _is_signed(certificate: Certificate, swarm_id: str, peer_id: str) -> bool:
    delegation = certificate.delegation
    delegated = _delegated(swarm_id, delegation.invitation_id, delegation.expires_ms)
    certified = _certified(swarm_id, delegation, peer_id, certificate.expires_ms)
    return verify(swarm_id, DELEGATION_DOMAIN, delegated, delegation.signature) and verify(
        delegation.invitation_id, CERTIFICATE_DOMAIN, certified, certificate.signature
    )


def _delegated(swarm_id: str, invitation_id: str, expires_ms: int) -> bytes:
    return f"{swarm_id} {invitation_id} {expires_ms}".encode()


def _certified(swarm_id: str, delegation: Delegation, peer_id: str, expires_ms: int) -> bytes:
    return f"{swarm_id} {delegation.invitation_id} {peer_id} {expires_ms}".encode()
