"""Which network a command joins, through whom, and where its identities are: the public one, or a private swarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pnet.cli.settings import data_dir, initial_peers, initial_peers_required
from p2pnet.entrance.invitation_line import read_line
from p2pnet.errors import UsageError
from p2pnet.peer import now_ms
from p2pnet.swarm.folder import SwarmFolder
from p2pnet.swarm.invitation import PREFIX, read_invitation
from p2pnet.swarm.membership import Membership
from p2pnet.swarm.owner import join, membership


@dataclass(frozen=True)
class Joining:
    """The network to join. Each swarm has identities of its own: no peer id is seen in two networks."""

    initial_peers: tuple[str, ...]
    membership: Membership | None = None
    folder: Path | None = None
    """Where identities are. None: the data folder."""


def swarm_folder(name: str, data: Path | None = None) -> SwarmFolder:
    """That of the user's swarm of this name, which need not exist, in this data folder or the usual one. Raises
    UsageError for what is no name."""
    return SwarmFolder((data or data_dir()) / "swarms", name)


def joining(
    named_peers: Sequence[str], swarm: str | None, invite: str | None = None, data: Path | None = None
) -> Joining:
    """The public network, or the swarm of this name: through the peers that were named, else those of its invitation,
    else those of the bootstrap file. Or that which an invitation leads into. Raises UsageError."""
    if invite is not None:
        if named_peers or swarm is not None:
            raise UsageError(
                "--invite says which network to join, and through whom.",
                "Leave out --initial-peers and --swarm, or --invite.",
            )
        return _invited(invite, data)
    if swarm is None:
        return Joining(initial_peers_required(named_peers))
    folder = swarm_folder(swarm, data)
    member = membership(folder, now_ms)
    through = initial_peers(named_peers) if named_peers else member.invitation.initial_peers
    return Joining(through or initial_peers_required(()), member, folder.path)


def _invited(line: str, data: Path | None) -> Joining:
    """By an invitation of either kind: one into a swarm makes its holder a member first."""
    if not line.strip().startswith(PREFIX):
        return Joining(initial_peers(read_line(line)))
    invitation = read_invitation(line, now_ms())
    join(swarm_folder(invitation.name, data), invitation, now_ms())
    return joining((), invitation.name, data=data)
