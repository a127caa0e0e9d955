"""Subnets: which addresses count as one."""

from __future__ import annotations

import pytest

from gateway.peers.subnets import subnets_of

PEER = "/p2p/12D3KooWRdFFg3yTbTsDq5Z1yCvCWbqznEFro9jeVivo7rkayJ4D"

SUBNETS = {
    "none": ((), set()),
    "of 256 addresses of the old kind": (("/ip4/8.8.4.9/tcp/1",), {"8.8.4.0/24"}),
    "of a customer's addresses of the new kind": (("/ip6/2001:4860:1:2::3/udp/1/quic-v1",), {"2001:4860:1::/48"}),
    "both of a machine that has both": (
        ("/ip4/8.8.4.9/tcp/1", "/ip6/2001:4860:1::/tcp/1"),
        {"8.8.4.0/24", "2001:4860:1::/48"},
    ),
    "one more that is invented changes nothing": (
        ("/ip4/1.2.3.4/tcp/1", "/ip4/8.8.4.9/tcp/1"),
        {"1.2.3.0/24", "8.8.4.0/24"},
    ),
    "the relay's": ((f"/ip4/8.8.4.9/tcp/1{PEER}/p2p-circuit{PEER}",), {"8.8.4.0/24"}),
    "private ones beside a public one do not count": (("/ip4/192.168.1.7/tcp/1", "/ip4/8.8.4.9/tcp/1"), {"8.8.4.0/24"}),
    "private ones count where there are no others": (("/ip4/192.168.1.7/tcp/1",), {"192.168.1.0/24"}),
    "this machine": (("/ip4/127.0.0.1/tcp/1",), {"127.0.0.0/24"}),
    "a name is one": (("/dns4/example.org/tcp/1",), {"example.org"}),
    "no address at all": (("/ip4/not-one/tcp/1", "/x"), {"not-one"}),
}


@pytest.mark.parametrize(("addresses", "subnets"), SUBNETS.values(), ids=SUBNETS)
def test_the_subnets_of_a_workers_addresses(addresses: tuple[str, ...], subnets: set[str]) -> None:
    assert subnets_of(addresses) == subnets
