"""Two swarms and their members for the tests: the same keys in every run, on networks inside one process."""

from __future__ import annotations

from pathlib import Path

from p2pnet.directory import validator
from p2pnet.identity import Identity
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.swarm.certificates import delegate
from p2pnet.swarm.invitation import Invitation
from p2pnet.swarm.kept_list import KeptList
from p2pnet.swarm.member_network import MemberNetwork
from p2pnet.swarm.membership import Membership, OwnCertificate
from p2pnet.swarm.owner import DAY_MS
from p2pnet.swarm.revocations import seal_revocations
from tests.stories import NOW_MS, ManualClock, peer

ENDS_MS = NOW_MS + 90 * DAY_MS


class SwarmKeys:
    """A swarm, by its name: its key, its secret and its invitations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.key = peer(f"swarm {name}")
        self.secret = (name.encode() * 32)[:32]

    @property
    def swarm_id(self) -> str:
        return self.key.peer_id

    def invitation(self, number: int = 1, expires_ms: int = ENDS_MS) -> Invitation:
        seed = bytes([number]) + (self.name.encode() * 32)[:31]
        delegation = delegate(self.key, Identity.from_seed(seed).peer_id, expires_ms)
        return Invitation(self.name, self.swarm_id, self.secret, seed, delegation, NOW_MS + DAY_MS)

    def revoking(self, *ids: str, sequence: int = 1) -> bytes:
        return seal_revocations(self.key, sequence, ids)


LAB, KITCHEN = SwarmKeys("lab"), SwarmKeys("kitchen")


def held(invitation: Invitation, kept_list: KeptList | None = None) -> Membership:
    """The membership of somebody who takes no other invitation."""
    return Membership(invitation, lambda: invitation, kept_list or KeptList(Path("/nowhere"), invitation.swarm_id))


def certified(peer_id: str, swarm: SwarmKeys = LAB) -> OwnCertificate:
    return OwnCertificate(held(swarm.invitation()), peer_id)


class Place:
    """A world in which members of swarms and everybody else meet, and whose time a test moves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clock = ManualClock()
        self.world = MemoryWorld(validator(self.clock))

    def stranger(self, name: str) -> MemoryNetwork:
        """Somebody on the public network."""
        return self.world.join(peer(name).peer_id)

    def member(self, name: str, swarm: SwarmKeys = LAB, invitation: Invitation | None = None) -> MemberNetwork:
        """A member, whose upkeep is the test's to do."""
        identity = peer(name)
        membership = held(invitation or swarm.invitation(), self.kept_list(name, swarm))
        inner = self.world.join(identity.peer_id)
        return MemberNetwork(inner, identity, membership, validator(self.clock), self.clock)

    def kept_list(self, name: str, swarm: SwarmKeys = LAB) -> KeptList:
        return KeptList(self._folder / f"{name}.revocations", swarm.swarm_id)
