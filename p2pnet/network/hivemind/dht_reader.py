"""Reads keys of the DHT: asks the peers nearest to each key, and checks every entry of their answers by itself.

hivemind's own reading is not used: it lets one bad entry hide a whole dictionary, one reply with a far-future expiry
end the search, and invented peers push out the real ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from p2pnet.network.connections import Connections
from p2pnet.network.hivemind.dht import Dht
from p2pnet.network.hivemind.dht_node import node_id_of
from p2pnet.network.hivemind.dht_values import unpack_value, values_in
from p2pnet.network.hivemind.p2pd import P2PD_ERRORS
from p2pnet.network.interface import Findings, StoredValue, Validator
from p2pnet.network.lookup import BEAM, Lookup, PeerReply

logger = logging.getLogger(__name__)


class DhtReader:
    """Asks the peers nearest to a key, and takes every valid entry from every answer."""

    def __init__(self, dht: Dht, connections: Connections, is_acceptable: Validator, rpc_timeout_s: float) -> None:
        self._dht = dht
        self._connections = connections
        self._is_acceptable = is_acceptable
        self._rpc_timeout_s = rpc_timeout_s

    async def fetch(self, keys: Sequence[str]) -> Findings:
        """What the peers nearest to each key hold, this one included."""
        ids = {DHTID.generate(key.encode()): key for key in keys}
        nearest = self._dht.node.protocol.routing_table.get_nearest_neighbors
        known = dict(node for id_ in ids for node in nearest(id_, BEAM, exclude=self._dht.node_id))
        lookup: Lookup[PeerID, StoredValue] = Lookup(list(ids), known, self._dht.node_id)
        await lookup.run(self._ask)
        return {key: [*self._stored_here(id_), *lookup.values[id_]] for id_, key in ids.items()}

    def _stored_here(self, id_: DHTID) -> list[StoredValue]:
        item = self._dht.node.protocol.storage.get(id_)
        if item is None:
            return []
        return [
            stored
            for subkey, (packed, expires_s) in item.value.items()
            if (stored := unpack_value(id_.to_bytes(), subkey, packed, expires_s)) is not None
        ]

    async def _ask(self, peer: PeerID, keys: Sequence[int]) -> PeerReply[PeerID, StoredValue] | None:
        """Ask one peer for keys. One that does not answer is left alone for a while, as hivemind's node would do."""
        node, protocol = self._dht.node, self._dht.node.protocol
        if peer in node.blacklist:
            return None
        try:
            if self._connections.knows(peer.to_base58()):
                await self._connections.connect(peer.to_base58())
            # A key a question: each may fill a reply.
            results = dict(await asyncio.gather(*(self._find(peer, DHTID(key)) for key in keys)))
            reply: PeerReply[PeerID, StoredValue] = PeerReply(
                values={id_: acceptable_values(id_, result, self._is_acceptable) for id_, result in results.items()},
                nearest={id_: named_nodes(result) for id_, result in results.items()},
            )
        except (*P2PD_ERRORS, ValueError, AssertionError) as error:  # the latter two: malformed node ids
            logger.debug("%s did not answer: %s", peer, error)
            self._connections.forget(peer.to_base58())
            node.blacklist.register_failure(peer)
            await protocol.update_routing_table(protocol.routing_table.get(peer_id=peer), peer, responded=False)
            return None
        node.blacklist.register_success(peer)
        return reply

    async def _find(self, peer: PeerID, id_: DHTID) -> tuple[DHTID, dht_pb2.FindResult]:
        protocol = self._dht.node.protocol
        request = dht_pb2.FindRequest(keys=[id_.to_bytes()], peer=protocol.node_info)
        response = await protocol.get_stub(peer).rpc_find(request, timeout=self._rpc_timeout_s)
        (result,) = response.results
        return id_, result


def acceptable_values(id_: DHTID, result: dht_pb2.FindResult, is_acceptable: Validator) -> list[StoredValue]:
    """The valid entries of a peer's answer. Only a dictionary is one."""
    if result.type != dht_pb2.FOUND_DICTIONARY:
        return []
    return list(filter(is_acceptable, values_in(id_.to_bytes(), result.value)))


def named_nodes(result: dht_pb2.FindResult) -> dict[DHTID, PeerID]:
    """The neighbours that a peer names, as far as their two ids belong together."""
    ids = map(DHTID.from_bytes, result.nearest_node_ids)
    pairs = zip(ids, map(PeerID, result.nearest_peer_ids), strict=False)
    return {node_id: peer for node_id, peer in pairs if node_id == node_id_of(peer)}
