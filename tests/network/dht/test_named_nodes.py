"""Which of the nodes that a peer names are believed, and which callers enter the routing table."""

from __future__ import annotations

import pytest
from hivemind.dht.routing import DHTID
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from p2pnet.network.dht.contact import (
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES_OF_A_NODE,
    Contact,
    packed_addresses,
    packed_id,
    peer_bytes,
)
from p2pnet.network.dht.messages import (
    MAX_NEAREST,
    FindResponse,
    FindResult,
    Sender,
    decode_find_response,
    encode_find_response,
)
from tests.stories import peer

A, B = (Contact(peer_bytes(peer(name).peer_id)) for name in "ab")
LISTENING = ("/ip4/192.0.2.1/tcp/31337", "/ip4/192.0.2.1/udp/31337/quic-v1")


def named(ids: list[int], peers: list[bytes]) -> list[Contact]:
    """The nodes that are believed when hivemind's own message names these."""
    result = dht_pb2.FindResult(nearest_node_ids=list(map(packed_id, ids)), nearest_peer_ids=peers)
    response = dht_pb2.FindResponse(results=[result]).SerializeToString()
    return list(decode_find_response(response).results[0].nearest)


def test_a_node_has_the_id_that_hivemind_gives_it() -> None:
    assert DHTID.generate(A.peer) == A.node_id
    assert PeerID(A.peer).to_base58() == A.peer_id == peer("a").peer_id


@pytest.mark.parametrize(
    ("ids", "peers", "believed"),
    [
        ([A.node_id, B.node_id], [A.peer, B.peer], [A, B]),
        ([B.node_id, A.node_id], [A.peer, B.peer], []),
        ([A.node_id, A.node_id], [A.peer, B.peer], [A]),
        ([7, B.node_id], [A.peer, B.peer], [B]),
        ([A.node_id, B.node_id], [A.peer], [A]),
        ([A.node_id], [A.peer, B.peer], [A]),
        ([], [], []),
    ],
)
def test_a_node_is_believed_under_the_id_that_follows_from_its_peer_id(
    ids: list[int], peers: list[bytes], believed: list[Contact]
) -> None:
    assert named(ids, peers) == believed


def test_no_more_are_believed_than_an_honest_peer_names() -> None:
    many = [Contact(number.to_bytes(4, "big")) for number in range(200)]
    assert named([each.node_id for each in many], [each.peer for each in many]) == many[:MAX_NEAREST]


def test_the_addresses_of_a_node_travel_with_it() -> None:
    full = tuple(f"{address}/p2p/{A.peer_id}" for address in LISTENING)
    contact = Contact(A.peer, packed_addresses((*full, f"{LISTENING[0]}/p2p/{B.peer_id}/p2p-circuit/p2p/{A.peer_id}")))
    response = FindResponse((FindResult(b"", (B, contact)),), Sender(contact.node_id, contact.addresses))
    found = decode_find_response(encode_find_response(response))
    assert found == response
    assert found.results[0].nearest[1].full_addresses() == full
    assert found.sender.contact(A.peer) == contact


def test_addresses_that_are_none_lead_nowhere() -> None:
    assert Contact(A.peer, (b"", b"\xff\xff", b"\x06\x01")).full_addresses() == ()
    too_many = Sender(A.node_id, tuple(bytes([number]) for number in range(9)))
    too_long = Sender(A.node_id, (bytes(MAX_ADDRESS_BYTES + 1),))
    assert len(_as_read(too_many).addresses) == MAX_ADDRESSES_OF_A_NODE
    assert _as_read(too_long).addresses == ()


def test_who_only_asks_and_who_has_another_s_id_is_no_node() -> None:
    assert Sender().contact(A.peer) is None
    assert Sender(B.node_id).contact(A.peer) is None
    assert _as_read(Sender()) == Sender()


def _as_read(sender: Sender) -> Sender:
    return decode_find_response(encode_find_response(FindResponse((), sender))).sender
