"""The mesh as a gateway sees it: a table of records."""

from __future__ import annotations

import re

import msgspec
import pytest

from gateway.observability.mesh import Link, Node, Way, mesh_of, way_to
from p2pnet.network.multiaddrs import relay_of
from p2pnet.records import CapabilityRecord
from tests.stories import address_of, capability, peer

GATEWAY, BOOTSTRAP, RELAY = (peer(name).peer_id for name in ("gateway", "bootstrap", "relay"))
ANN, BOB = peer("ann"), peer("bob")


def behind(relay: str, worker: CapabilityRecord) -> CapabilityRecord:
    circuit = f"/ip4/203.0.113.9/tcp/31337/p2p/{relay}/p2p-circuit/p2p/{worker.peer_id}"
    return msgspec.structs.replace(worker, addresses=(circuit, circuit.replace("tcp/31337", "udp/31337/quic-v1")))


def unconnected(peer_id: str) -> None:
    """Nobody is connected yet."""


@pytest.mark.parametrize(
    ("record", "is_direct", "way"),
    [
        (capability(ANN), None, "direct"),
        (capability(ANN), True, "direct"),
        (capability(ANN), False, "relayed"),
        (behind(RELAY, capability(BOB)), None, "relayed"),
        (behind(RELAY, capability(BOB)), False, "relayed"),
        (behind(RELAY, capability(BOB)), True, "punched"),
    ],
)
def test_how_a_worker_is_reached(record: CapabilityRecord, is_direct: bool | None, way: Way) -> None:
    assert way_to(record, lambda _: is_direct) == way
    assert mesh_of(GATEWAY, [], [record], lambda _: is_direct).links[0] == Link(GATEWAY, record.peer_id, way)


@pytest.mark.parametrize(
    ("address", "relay"),
    [
        (address_of(ANN), None),
        (f"/ip4/203.0.113.9/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{ANN.peer_id}", RELAY),
        (f"/p2p/{RELAY}/p2p-circuit", RELAY),
        (f"/ip4/203.0.113.9/tcp/1/p2p-circuit/p2p/{ANN.peer_id}", None),
    ],
)
def test_which_relay_an_address_leads_through(address: str, relay: str | None) -> None:
    assert relay_of(address) == relay


def test_a_gateway_alone() -> None:
    mesh = mesh_of(GATEWAY, [], [], unconnected)
    assert (mesh.nodes, mesh.links) == ([Node(GATEWAY, "gateway")], [])


def test_a_direct_and_a_relayed_worker() -> None:
    workers = [capability(ANN, name="anna-laptop"), behind(RELAY, capability(BOB))]
    mesh = mesh_of(GATEWAY, [address_of(peer("bootstrap"))], workers, unconnected)
    assert mesh.nodes == [
        Node(GATEWAY, "gateway"),
        Node(BOOTSTRAP, "bootstrap"),
        Node(RELAY, "bootstrap"),
        Node(ANN.peer_id, "worker", "anna-laptop"),
        Node(BOB.peer_id, "worker"),
    ]
    assert mesh.links == [
        Link(GATEWAY, BOOTSTRAP, "joined"),
        Link(GATEWAY, ANN.peer_id, "direct"),
        Link(GATEWAY, BOB.peer_id, "relayed"),
        Link(BOB.peer_id, RELAY, "reserved"),
    ]


def test_a_worker_that_others_join_through_is_a_worker() -> None:
    mesh = mesh_of(GATEWAY, [address_of(ANN)], [capability(ANN)], unconnected)
    assert [node.kind for node in mesh.nodes] == ["gateway", "worker"]
    assert Link(GATEWAY, ANN.peer_id, "joined") in mesh.links


def test_no_address_is_shown() -> None:
    mesh = mesh_of(GATEWAY, [address_of(peer("bootstrap"))], [behind(RELAY, capability(BOB))], unconnected)
    assert not re.search(rb"\d+\.\d+\.\d+\.\d+|/ip4|/tcp", msgspec.json.encode(mesh))
