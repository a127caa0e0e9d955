"""When a peer's network says that a new stream is better than one that is kept. No p2pd is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pnet.config import NetworkConfig
from p2pnet.directory import validator
from p2pnet.network.dial_addresses import Scope
from p2pnet.network.hivemind.network import HivemindNetwork
from tests.stories import ManualClock, peer

A, RELAY = peer("a").peer_id, peer("relay").peer_id
HERE = f"/ip4/127.0.0.1/tcp/1/p2p/{A}"
ALSO_HERE = f"/ip4/127.0.0.1/udp/1/quic-v1/p2p/{A}"
ELSEWHERE = f"/ip4/127.0.0.1/tcp/2/p2p/{A}"
CIRCUIT = f"/ip4/127.0.0.1/tcp/9/p2p/{RELAY}/p2p-circuit/p2p/{A}"


@pytest.mark.parametrize(
    ("known", "now", "is_wanted"),
    [
        ((HERE,), (HERE,), False),
        ((HERE,), (HERE, ALSO_HERE), False),
        ((HERE, ALSO_HERE), (ALSO_HERE,), False),
        ((HERE,), (ELSEWHERE,), True),
        ((CIRCUIT,), (CIRCUIT,), True),
        ((HERE, CIRCUIT), (HERE, CIRCUIT), False),
    ],
    ids=["as before", "one more", "one less", "it has moved", "a hole is to be tried", "it may be dialled"],
)
def test_a_new_stream_is_wanted(tmp_path: Path, known: tuple[str, ...], now: tuple[str, ...], is_wanted: bool) -> None:
    clock = ManualClock()
    network = HivemindNetwork(
        NetworkConfig(tmp_path / "key"), peer("gateway").peer_id, validator(clock), clock, Scope.LOOPBACK
    )
    network.wants_new_stream(A, known)
    assert network.wants_new_stream(A, now) is is_wanted


def test_where_a_peer_drifts_it_has_not_moved(tmp_path: Path) -> None:
    """Each time one address is new and one is as before: kept streams are asked about with each request."""
    clock = ManualClock()
    network = HivemindNetwork(
        NetworkConfig(tmp_path / "key"), peer("gateway").peer_id, validator(clock), clock, Scope.LOOPBACK
    )
    for port in range(1, 5):
        addresses = [f"/ip4/127.0.0.1/tcp/{each}/p2p/{A}" for each in (port, port + 1)]
        assert not network.wants_new_stream(A, addresses)
