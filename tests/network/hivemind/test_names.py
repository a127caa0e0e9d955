"""Names in addresses: what they stand for is announced, and a name that stands for nothing takes nothing with it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from p2pnet.network.hivemind.names import look_up, resolved
from tests.stories import peer

OWN, RELAY = peer("own").peer_id, peer("relay").peer_id
KNOWN = {
    ("worker.example", socket.AF_INET): ["8.8.8.8", "8.8.4.4"],
    ("worker.example", socket.AF_INET6): ["2600::1"],
}


async def looked_up(name: str, family: socket.AddressFamily) -> list[str]:
    if name == "stuck.example":
        raise TimeoutError
    if (found := KNOWN.get((name, family))) is None:
        raise socket.gaierror
    return found


@pytest.mark.parametrize(
    ("address", "addresses"),
    [
        (f"/ip4/9.9.9.9/tcp/1/p2p/{OWN}", [f"/ip4/9.9.9.9/tcp/1/p2p/{OWN}"]),
        (
            f"/dns4/worker.example/tcp/1/p2p/{OWN}",
            [f"/ip4/8.8.8.8/tcp/1/p2p/{OWN}", f"/ip4/8.8.4.4/tcp/1/p2p/{OWN}"],
        ),
        (f"/dns6/worker.example/udp/1/quic-v1/p2p/{OWN}", [f"/ip6/2600::1/udp/1/quic-v1/p2p/{OWN}"]),
        (
            f"/dns/worker.example/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}",
            [
                f"/{host}/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}"
                for host in ("ip4/8.8.8.8", "ip4/8.8.4.4", "ip6/2600::1")
            ],
        ),
        (f"/dns4/nobody.example/tcp/1/p2p/{OWN}", []),
        (f"/dns4/stuck.example/tcp/1/p2p/{OWN}", []),
    ],
)
async def test_what_names_stand_for(address: str, addresses: list[str]) -> None:
    kept = f"/ip4/9.9.9.9/tcp/2/p2p/{OWN}"
    assert await resolved([address, kept], looked_up) == (*addresses, kept)


async def test_the_system_knows_this_machine() -> None:
    async with asyncio.timeout(10):
        assert await look_up("localhost", socket.AF_INET) == ["127.0.0.1"]
