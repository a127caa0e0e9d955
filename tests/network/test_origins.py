"""What counts as one address."""

from __future__ import annotations

import pytest

from p2pnet.network.origins import is_behind_relay, origin_of
from tests.stories import peer

RELAY = peer("relay").peer_id


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("/ip4/203.0.113.7/tcp/31337", "203.0.113.7"),
        ("/ip4/203.0.113.7/udp/1/quic-v1", "203.0.113.7"),
        ("/ip6/2001:db8:1:2ff::7/tcp/1", "2001:db8:1:200::/56"),
        ("/ip6/2001:db8:1:201::8/udp/2/quic-v1", "2001:db8:1:200::/56"),
        ("/ip6/::ffff:203.0.113.7/tcp/1", "203.0.113.7"),
        (f"/ip4/203.0.113.7/tcp/1/p2p/{RELAY}/p2p-circuit", f"relay {RELAY}"),
        ("/dns4/example.org/tcp/1", "/dns4/example.org/tcp/1"),
        ("", ""),
        ("junk", "junk"),
    ],
)
def test_origins(address: str, origin: str) -> None:
    assert origin_of(address) == origin
    assert is_behind_relay(origin) == ("p2p-circuit" in address)
