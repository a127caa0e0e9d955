"""Takes part in the DHT: owns this peer's node, which is made anew on each p2pd, and what the node stores for others.

Knows nothing of joining, nor of how keys are read: see `joining` and `dht_reader`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hivemind.dht import DHTNode
from hivemind.p2p import P2P, PeerID

from p2pnet.config import NetworkConfig
from p2pnet.network.hivemind.dht_node import BoundedStorage, create_node, node_id_of
from p2pnet.network.interface import Entry, Validator


class Dht:
    """One node at a time. A new one knows nobody, and holds what the one before has stored."""

    def __init__(self, config: NetworkConfig, peer_id: str, is_acceptable: Validator) -> None:
        self._config = config
        self._peer_id = peer_id
        self._is_acceptable = is_acceptable
        self._storage = BoundedStorage()
        self.node_id = node_id_of(PeerID.from_base58(peer_id))
        self._node: DHTNode

    @property
    def node(self) -> DHTNode:
        """hivemind's node on the p2pd that was started last."""
        return self._node

    @property
    def neighbours(self) -> int:
        """How many peers the node knows at this moment."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    def neighbour_ids(self) -> set[str]:
        """Their peer ids."""
        return {peer.to_base58() for peer in self._node.protocol.routing_table.uid_to_peer_id.values()}

    async def start(self, p2p: P2P) -> None:
        """Take part in the DHT through this p2pd."""
        self._node = await create_node(p2p, self.node_id, self._config, self._is_acceptable, self._storage)

    def stop(self) -> None:
        self._node.is_alive = False

    async def store(self, entries: Sequence[Entry]) -> int:
        """Store entries on the peers nearest to their keys. Returns how many were accepted by at least one peer."""
        results = await self._node.store_many(
            keys=[entry.key.encode() for entry in entries],
            values=[entry.value for entry in entries],
            expiration_time=[entry.expires_ms / 1000 for entry in entries],
            subkeys=[self._peer_id] * len(entries),
            exclude_self=self._config.is_dht_client,
        )
        return sum(map(bool, results.values()))
