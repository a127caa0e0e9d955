"""Makes hivemind's DHT node follow our rules: what it stores, which nodes it believes, and that it has no cache.

Knows nothing of how keys are read: see `dht_reader`.
"""

from __future__ import annotations

from hivemind.dht import DHTNode
from hivemind.dht.routing import DHTID, RoutingTable
from hivemind.dht.storage import DHTLocalStorage
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID

from p2pnet.config import NetworkConfig
from p2pnet.network.hivemind.dht_values import unpack_subkey, unpack_value
from p2pnet.network.interface import Validator

MAX_STORED_KEYS = 1 << 16
"""How many keys a peer stores for others, the soonest to expire leaving first: strangers can invent keys for free."""

MAX_VALUES_PER_KEY = 900
"""Values of the largest size, 4 KiB, that fit into one reply of the DHT, 4 MiB, with their subkeys and expiries."""

ROUTING_DEPTH_MODULO = 5
"""hivemind's default: how finely the far half of the id space is split into buckets."""


def node_id_of(peer_id: PeerID) -> DHTID:
    """A node's id follows from its peer id."""
    return DHTID.generate(peer_id.to_bytes())


class RecordValidator(RecordValidatorBase):  # type: ignore[misc]
    """Our Validator in hivemind's terms. A plain value, whose subkey is nil, is never acceptable."""

    def __init__(self, is_acceptable: Validator) -> None:
        self._is_acceptable = is_acceptable

    def validate(self, record: DHTRecord) -> bool:
        subkey = unpack_subkey(record.subkey)
        if subkey is None:
            return False
        stored = unpack_value(record.key, subkey, record.value, record.expiration_time)
        return stored is not None and self._is_acceptable(stored)


class StrictRoutingTable(RoutingTable):  # type: ignore[misc]
    """Takes a node under the id that follows from its peer id, and no other: nobody can sit at another's position,
    nor choose one near a key without looking for a key pair that leads there."""

    def add_or_update_node(self, node_id: DHTID, peer_id: PeerID) -> tuple[DHTID, PeerID] | None:
        if node_id != node_id_of(peer_id):
            return None
        return super().add_or_update_node(node_id, peer_id)  # type: ignore[no-any-return]


class BoundedStorage(DHTLocalStorage):  # type: ignore[misc]
    """What this peer stores for others. A dictionary that has grown over a reply's size could not be read any more."""

    def __init__(self) -> None:
        super().__init__(maxsize=MAX_STORED_KEYS)

    def store_subkey(self, key: DHTID, subkey: str, value: bytes, expiration_time: float) -> bool:
        item = self.get(key)
        if item is not None and len(item.value.data) >= MAX_VALUES_PER_KEY and subkey not in item.value.data:
            item.value.get(subkey)  # drops what has expired
            if len(item.value.data) >= MAX_VALUES_PER_KEY:
                return False
        return bool(super().store_subkey(key, subkey, value, expiration_time))


class NoCache(DHTLocalStorage):  # type: ignore[misc]
    """hivemind answers from its cache when that expires later, and lets strangers write to it: one value of theirs
    would hide a whole dictionary. Nothing of ours uses it."""

    def store(self, *arguments: object, **more: object) -> bool:
        return False

    def store_subkey(self, *arguments: object) -> bool:
        return False


async def create_node(
    p2p: P2P, node_id: DHTID, config: NetworkConfig, is_acceptable: Validator, storage: BoundedStorage
) -> DHTNode:
    """A node of the DHT on this p2pd, which goes on storing what is in `storage`."""
    node = await DHTNode.create(
        p2p=p2p,
        node_id=node_id,
        client_mode=config.is_dht_client,
        record_validator=RecordValidator(is_acceptable),
        wait_timeout=config.rpc_timeout_s,
        cache_locally=False,  # what we read we check and keep ourselves
        cache_nearest=0,
        cache_on_store=False,
    )
    protocol = node.protocol
    protocol.routing_table = StrictRoutingTable(node_id, protocol.bucket_size, ROUTING_DEPTH_MODULO)
    protocol.storage = storage
    protocol.cache = NoCache()
    return node
