"""Multiaddrs: what each question answers, as tables."""

from __future__ import annotations

import itertools

import pytest

from p2pnet.errors import UsageError
from p2pnet.network.multiaddrs import (
    best_to_share,
    check_listen_address,
    check_peer_address,
    is_relayed,
    parts_of,
    peer_id_of,
    without_peer_id,
    worth_announcing,
)
from tests.stories import peer

OWN = peer("own").peer_id
RELAY = peer("relay").peer_id

TCP = f"/ip4/203.0.113.7/tcp/31337/p2p/{OWN}"
QUIC = f"/ip4/203.0.113.7/udp/31337/quic-v1/p2p/{OWN}"
PUBLIC = f"/ip4/8.8.8.8/tcp/31337/p2p/{OWN}"
PUBLIC_QUIC = f"/ip4/8.8.8.8/udp/31337/quic-v1/p2p/{OWN}"
PUBLIC_6 = f"/ip6/2600::1/tcp/31337/p2p/{OWN}"
DNS = f"/dns4/worker.example/tcp/31337/p2p/{OWN}"
PRIVATE = f"/ip4/192.168.1.2/tcp/31337/p2p/{OWN}"
PRIVATE_QUIC = f"/ip4/10.0.0.2/udp/31337/quic-v1/p2p/{OWN}"
LOOPBACK = f"/ip4/127.0.0.1/tcp/31337/p2p/{OWN}"
LOOPBACK_6 = f"/ip6/::1/tcp/31337/p2p/{OWN}"
CIRCUIT = f"/ip4/8.8.4.4/tcp/4001/p2p/{RELAY}/p2p-circuit/p2p/{OWN}"

PARTS = [
    ("/ip4/203.0.113.7/tcp/31337", [("ip4", "203.0.113.7"), ("tcp", "31337")]),
    ("/ip6/2001:db8::1/udp/0/quic-v1", [("ip6", "2001:db8::1"), ("udp", "0"), ("quic-v1", "")]),
    ("/dns4/worker.example/tcp/443/tls", [("dns4", "worker.example"), ("tcp", "443"), ("tls", "")]),
    (
        CIRCUIT,
        [("ip4", "8.8.4.4"), ("tcp", "4001"), ("p2p", RELAY), ("p2p-circuit", ""), ("p2p", OWN)],
    ),
    (f"/memory/0/p2p/{OWN}", [("memory", "0"), ("p2p", OWN)]),
]

NOT_MULTIADDRS = [
    *(
        "",
        "/",
        "//",
        "words",
        "ip4/1.2.3.4",
        "https://example.org/",
        "203.0.113.7:31337",
        "/ip4",
        "/ip4/",
        "/ip4/tcp/1",
    ),
    *("/ip4/1.2.3.256", "/ip4/1.2.3.4/tcp", "/ip4/1.2.3.4/tcp/65536", "/ip4/1.2.3.4/tcp/-1", "/ip4/1.2.3.4/tcp/http"),
    *(
        "/ip6/:::",
        "/ip6/1.2.3.4/tcp/1",
        "/warp/9",
        "/p2p",
        "/p2p/",
        "/p2p/junk",
        "/dns4/",
        "/onion3/aa:1",
        "/certhash/u",
    ),
    *(" /ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1 ", "/ip4/1.2.3.4/tcp/1\n", "/ip4/1.2.3.4/tcp/1\r\n", "\t/ip4/1.2.3.4"),
    *("/dns4/a\0b/tcp/1", "/dns4/\x1b[2J/tcp/1", "/dns4/\ud800/tcp/1", f"{TCP}\x9b31m", "/unix/tmp/a b"),
]


@pytest.mark.parametrize(("address", "parts"), PARTS)
def test_parts(address: str, parts: list[tuple[str, str]]) -> None:
    assert list(parts_of(address)) == parts


@pytest.mark.parametrize("address", NOT_MULTIADDRS)
def test_what_is_no_multiaddr_is_a_value_error_and_for_a_person_a_usage_error(address: str) -> None:
    for question in (parts_of, peer_id_of):
        with pytest.raises(ValueError, match="not a multiaddr"):
            question(address)
    for check in (check_listen_address, check_peer_address):
        with pytest.raises(UsageError) as raised:
            check(address)
        assert "not a multiaddr" in raised.value.message
        assert "/ip4/" in raised.value.fix
        assert (raised.value.message + raised.value.fix).isprintable()


PEER_IDS = [
    (TCP, OWN),
    (QUIC, OWN),
    (CIRCUIT, OWN),
    (f"/p2p/{OWN}", OWN),
    ("/ip4/203.0.113.7/tcp/31337", None),
    (f"{TCP}/p2p-circuit", None),
    (f"{TCP}/http", None),
    (f"/unix/run/p2p/{OWN}", None),
]


@pytest.mark.parametrize(("address", "peer_id"), PEER_IDS)
def test_an_address_leads_to_its_last_peer(address: str, peer_id: str | None) -> None:
    assert peer_id_of(address) == peer_id
    assert check_listen_address(address) == address
    if peer_id:
        assert check_peer_address(address) == address
    else:
        with pytest.raises(UsageError) as raised:
            check_peer_address(address)
        assert "/p2p/" in raised.value.fix


@pytest.mark.parametrize(
    ("address", "rest"),
    [
        (TCP, "/ip4/203.0.113.7/tcp/31337"),
        (QUIC, "/ip4/203.0.113.7/udp/31337/quic-v1"),
        (CIRCUIT, f"/ip4/8.8.4.4/tcp/4001/p2p/{RELAY}/p2p-circuit"),
        ("/ip4/203.0.113.7/tcp/31337", "/ip4/203.0.113.7/tcp/31337"),
    ],
)
def test_without_its_peer(address: str, rest: str) -> None:
    assert without_peer_id(address) == rest


@pytest.mark.parametrize(("address", "relayed"), [(TCP, False), (f"/p2p/{OWN}", False), (CIRCUIT, True)])
def test_a_circuit_is_relayed(address: str, relayed: bool) -> None:
    assert is_relayed(address) is relayed


BEST_FIRST = [DNS, PUBLIC, PUBLIC_QUIC, PRIVATE, PRIVATE_QUIC, PUBLIC_6, CIRCUIT]
"""Direct before relayed, IPv4 before IPv6, public before private, TCP before QUIC."""


def test_addresses_are_announced_best_first() -> None:
    for order in itertools.islice(itertools.permutations(BEST_FIRST), 0, None, 97):
        assert worth_announcing(order) == tuple(BEST_FIRST)


@pytest.mark.parametrize(
    ("addresses", "announced"),
    [
        ([], ()),
        ([LOOPBACK], (LOOPBACK,)),
        ([LOOPBACK_6, LOOPBACK], (LOOPBACK, LOOPBACK_6)),
        ([LOOPBACK, PRIVATE], (PRIVATE,)),
        ([LOOPBACK, LOOPBACK_6, CIRCUIT], (CIRCUIT,)),
        ([PRIVATE, PUBLIC], (PUBLIC, PRIVATE)),
        ([PUBLIC, PUBLIC, PUBLIC], (PUBLIC,)),
        ([CIRCUIT, PUBLIC_QUIC], (PUBLIC_QUIC, CIRCUIT)),
    ],
)
def test_loopback_is_announced_only_when_there_is_nothing_else(
    addresses: list[str], announced: tuple[str, ...]
) -> None:
    assert worth_announcing(addresses) == announced


@pytest.mark.parametrize(
    ("addresses", "best"),
    [
        ([], None),
        ([LOOPBACK], LOOPBACK),
        ([LOOPBACK, PRIVATE], PRIVATE),
        ([PRIVATE, PUBLIC_QUIC], PUBLIC_QUIC),
        ([PUBLIC_QUIC, PUBLIC], PUBLIC),
        ([CIRCUIT, PRIVATE], PRIVATE),
        ([CIRCUIT, LOOPBACK], LOOPBACK),
    ],
)
def test_the_address_to_share(addresses: list[str], best: str | None) -> None:
    for order in itertools.permutations(addresses):
        assert best_to_share(order) == best
