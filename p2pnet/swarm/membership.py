"""What makes a process a member of a swarm, for as long as it runs: its user may take another invitation meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from p2pnet.errors import UsageError
from p2pnet.swarm.certificates import Certificate
from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.kept_list import KeptList

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Membership:
    """The invitation that its user holds, what reads the one that is held later, and where the newest list of what is
    revoked is kept."""

    invitation: Invitation
    read_again: Callable[[], Invitation]
    """Raises UsageError."""
    kept_list: KeptList


class OwnCertificate:
    """That of one peer, by the newest invitation that its user holds."""

    def __init__(self, membership: Membership, peer_id: str) -> None:
        self._peer_id = peer_id
        self._read_again = membership.read_again
        self._invitation = membership.invitation
        self.newest = self._invitation.certificate_for(peer_id)

    def renew(self) -> Certificate:
        """Look whether there is another invitation of the same swarm. Without one the certificate stays as it is."""
        try:
            invitation = self._read_again()
        except UsageError as error:
            logger.debug("the invitation is not read again: %s", error)
            return self.newest
        if invitation != self._invitation and invitation.swarm_id == self._invitation.swarm_id:
            self._invitation = invitation
            self.newest = invitation.certificate_for(self._peer_id)
        return self.newest
