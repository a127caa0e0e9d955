"""Which nodes a node knows, and who makes room for whom."""

from __future__ import annotations

import random

from p2pnet.network.dht.contact import ID_BITS, Contact
from p2pnet.network.dht.routing_table import BUCKET_SIZE, RoutingTable

OWN = Contact(b"own")
NODES = [Contact(number.to_bytes(4, "big")) for number in range(3_000)]


def far_from(own: Contact) -> list[Contact]:
    """The nodes whose ids begin with another bit: all belong into one bucket."""
    return [node for node in NODES if (node.node_id ^ own.node_id) >> (ID_BITS - 1)]


def test_the_nearest_are_found_nearest_first() -> None:
    table = RoutingTable(OWN.node_id)
    for node in NODES[:200]:
        table.note(node)
    for target in random.Random(1).sample(range(1 << 32), 20):
        known = sorted(table, key=lambda node: node.node_id ^ target)
        assert table.nearest(target, 10) == known[:10]


def test_a_node_never_knows_itself() -> None:
    table = RoutingTable(OWN.node_id)
    assert table.note(OWN) is None
    assert len(table) == 0
    assert OWN.node_id not in table


def test_a_full_bucket_keeps_those_that_were_there() -> None:
    table = RoutingTable(OWN.node_id)
    first, *others = far_from(OWN)
    known = [first, *others[: BUCKET_SIZE - 1]]
    assert [table.note(node) for node in known] == [None] * BUCKET_SIZE
    assert all(table.note(node) == first for node in others[BUCKET_SIZE:])
    assert set(table) == set(known)


def test_the_one_that_was_silent_for_longest_is_named() -> None:
    table = RoutingTable(OWN.node_id)
    first, second, *others = far_from(OWN)
    for node in (first, second, *others[: BUCKET_SIZE - 2]):
        table.note(node)
    table.note(first)
    assert table.note(others[-1]) == second
    table.remove(second.node_id)
    assert table.note(others[-1]) is None
    assert others[-1].node_id in table


def test_thousands_of_nodes_take_little() -> None:
    table = RoutingTable(OWN.node_id)
    for node in NODES:
        table.note(node)
    assert len(table) < 20 * BUCKET_SIZE
    table.clear()
    assert list(table) == []


def test_addresses_are_renewed_and_never_lost() -> None:
    table = RoutingTable(OWN.node_id)
    with_addresses = Contact(NODES[0].peer, (b"address",))
    for noted in (NODES[0], with_addresses, NODES[0]):
        table.note(noted)
    assert table.get(NODES[0].node_id) == with_addresses
