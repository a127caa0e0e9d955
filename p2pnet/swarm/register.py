"""Who is a member at this moment: whoever has a certificate that holds, and is not revoked.

Keeps the newest list of what is revoked, in memory. Knows nothing of where lists come from.
"""

from __future__ import annotations

from p2pnet.errors import NotAMember, RecordRefused
from p2pnet.network.interface import Clock
from p2pnet.swarm.certificates import Certificate, check_certificate
from p2pnet.swarm.revocations import check_not_revoked, open_revocations


class Register:
    """That of one swarm, as one of its members knows it."""

    def __init__(self, swarm_id: str, now_ms: Clock) -> None:
        self._swarm_id = swarm_id
        self._now_ms = now_ms
        self._revoked: frozenset[bytes] = frozenset()
        self.sequence = 0
        """That of the newest list; 0: there is none yet."""
        self.sealed_list = b""

    def check(self, certificate: Certificate, peer_id: str) -> None:
        """Raises NotAMember with the reason."""
        check_certificate(certificate, self._swarm_id, peer_id, self._now_ms())
        check_not_revoked(certificate, peer_id, self._revoked)

    def has(self, certificate: Certificate, peer_id: str) -> bool:
        """Whether the peer is a member."""
        try:
            self.check(certificate, peer_id)
        except NotAMember:
            return False
        return True

    def learn(self, sealed_list: bytes) -> None:
        """Look at a list that somebody has handed on, and go by it if it is one of this swarm's and newer."""
        if sealed_list == self.sealed_list:
            return
        try:
            revocations = open_revocations(sealed_list, self._swarm_id)
        except RecordRefused:
            return
        if revocations.sequence > self.sequence:
            self.sequence, self.sealed_list = revocations.sequence, sealed_list
            self._revoked = frozenset(revocations.revoked)
