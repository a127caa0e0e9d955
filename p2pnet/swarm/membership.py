"""What makes a process a member of a swarm."""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.kept_list import KeptList


@dataclass(frozen=True)
class Membership:
    """The invitation that its user holds, and where the newest list of what is revoked is kept."""

    invitation: Invitation
    kept_list: KeptList
