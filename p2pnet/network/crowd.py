"""Decides which peers to part from when there are too many connections: those from where most come, the newest first.

While there is room nobody is parted from: a hundred peers behind one NAT, or of a test on one machine, hurt nobody.
Functions of data: knows nothing of p2pd, nor of how connections are closed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from p2pnet.network.multiaddrs import address_group, is_relayed

MAX_CONNECTIONS_PER_PEER = 8
"""Two ends that dial one another at the same time, over TCP and QUIC, directly and through a relay or two, have six."""

ALWAYS_PER_GROUP = 8
"""Peers that stay of each group of addresses however crowded it is: a household, and what libp2p's relays allow to one
address."""

ALWAYS_PER_RELAY = 256
"""Peers that stay through each relay: a worker behind NAT has all of its gateways through one or two."""


@dataclass(frozen=True)
class Connection:
    """One connection to a peer, and the multiaddr of its other end."""

    peer_id: str
    address: str


class Crowd:
    """Remembers in which order peers came. With more than `max_connections` it is one."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._arrived: dict[str, None] = {}

    def too_many(self, connections: Sequence[Connection], in_use: Collection[str] = ()) -> list[str]:
        """The peers to part from, of all that are connected now. `in_use` are those that this peer needs itself."""
        counts = Counter(connection.peer_id for connection in connections)
        self._arrived = {peer: None for peer in (*self._arrived, *counts) if peer in counts}
        many = [peer for peer, count in counts.items() if count > MAX_CONNECTIONS_PER_PEER]
        excess = len(connections) - sum(counts[peer] for peer in many) - self._max_connections
        if excess <= 0:
            return many
        leaving = self._last_comers(connections, {*in_use, *many})
        return [*many, *leaving[:excess]]

    def newest(self, of: Collection[str]) -> list[str]:
        """Those of them that came last: half of them, and a few if there are few."""
        newest_first = [peer for peer in reversed(self._arrived) if peer in of]
        return newest_first[: max(ALWAYS_PER_GROUP, len(newest_first) // 2)]

    def _last_comers(self, connections: Sequence[Connection], exempt: Collection[str]) -> list[str]:
        """Who may be parted from, in this order: the last of the largest group first, until all are equally large."""
        ranked = [
            (rank, peer)
            for group, peers in self._by_group(connections).items()
            for rank, peer in enumerate(peers)
            if rank >= (ALWAYS_PER_RELAY if group.is_relayed else ALWAYS_PER_GROUP) and peer not in exempt
        ]
        return [peer for _, peer in sorted(ranked, key=lambda each: -each[0])]

    def _by_group(self, connections: Sequence[Connection]) -> dict[_Group, list[str]]:
        """The peers of each group, in the order in which they came. One with a direct connection came by that."""
        groups: dict[str, _Group] = {}
        for connection in connections:
            group = _group_of(connection.address)
            if connection.peer_id not in groups or groups[connection.peer_id].is_relayed:
                groups[connection.peer_id] = group
        found: dict[_Group, list[str]] = defaultdict(list)
        for peer in self._arrived:
            found[groups[peer]].append(peer)
        return found


@dataclass(frozen=True)
class _Group:
    """Addresses that belong together; of relayed connections, those of the relay."""

    addresses: str
    is_relayed: bool


@lru_cache(maxsize=8192)
def _group_of(address: str) -> _Group:
    return _Group(address_group(address), is_relayed(address))
