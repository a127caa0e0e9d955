"""Which network a command joins, through whom, and where its identities are: the public one, or a private swarm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p2pnet.cli.settings import data_dir, initial_peers, initial_peers_required
from p2pnet.peer import now_ms
from p2pnet.swarm.folder import SwarmFolder
from p2pnet.swarm.membership import Membership
from p2pnet.swarm.owner import membership


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


def joining(named_peers: Sequence[str], swarm: str | None, data: Path | None = None) -> Joining:
    """The public network, or the swarm of this name: through the peers that were named, else those of its invitation,
    else those of the bootstrap file. Raises UsageError."""
    if swarm is None:
        return Joining(initial_peers_required(named_peers))
    folder = swarm_folder(swarm, data)
    member = membership(folder, now_ms)
    through = initial_peers(named_peers) if named_peers else member.invitation.initial_peers
    return Joining(through or initial_peers_required(()), member, folder.path)
