"""Which of the nodes that a peer names are believed."""

from __future__ import annotations

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from p2pnet.network.hivemind.dht_node import StrictRoutingTable, node_id_of
from p2pnet.network.hivemind.dht_reader import named_nodes
from tests.stories import peer

A, B = (PeerID.from_base58(peer(name).peer_id) for name in "ab")
ID_A, ID_B = node_id_of(A), node_id_of(B)


@pytest.mark.parametrize(
    ("ids", "peers", "believed"),
    [
        ([ID_A, ID_B], [A, B], {ID_A: A, ID_B: B}),
        ([ID_B, ID_A], [A, B], {}),
        ([ID_A, ID_A], [A, B], {ID_A: A}),
        ([DHTID(7), ID_B], [A, B], {ID_B: B}),
        ([ID_A, ID_B], [A], {ID_A: A}),
        ([ID_A], [A, B], {ID_A: A}),
        ([], [], {}),
    ],
)
def test_a_node_is_believed_under_the_id_that_follows_from_its_peer_id(
    ids: list[DHTID], peers: list[PeerID], believed: dict[DHTID, PeerID]
) -> None:
    result = dht_pb2.FindResult(
        nearest_node_ids=[id_.to_bytes() for id_ in ids], nearest_peer_ids=[peer_id.to_bytes() for peer_id in peers]
    )
    assert named_nodes(result) == believed


def test_no_other_enters_the_routing_table() -> None:
    table = StrictRoutingTable(ID_A, bucket_size=20, depth_modulo=5)
    table.add_or_update_node(DHTID(7), B)
    assert not table.uid_to_peer_id
    table.add_or_update_node(ID_B, B)
    assert dict(table.uid_to_peer_id) == {ID_B: B}
