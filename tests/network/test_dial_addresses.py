"""Which addresses a record may name, and which of them are dialled: nobody is sent to his own router or to a name."""

from __future__ import annotations

import pytest

from p2pnet.network.dial_addresses import (
    MAX_ADDRESSES,
    Place,
    Scope,
    may_dial,
    place_of,
    scope_of_host,
    scope_of_network,
    worth_recording,
)
from tests.stories import peer

OWN, RELAY, OTHER = peer("own").peer_id, peer("relay").peer_id, peer("other").peer_id
PUBLIC, PRIVATE, LOOPBACK = Scope.PUBLIC, Scope.PRIVATE, Scope.LOOPBACK

PLACES: list[tuple[str, Place | None]] = [
    (f"/ip4/8.8.8.8/tcp/31337/p2p/{OWN}", Place("8.8.8.8", 31337, OWN)),
    (f"/ip4/8.8.8.8/udp/31337/quic-v1/p2p/{OWN}", Place("8.8.8.8", 31337, OWN)),
    (f"/ip6/2600::1/tcp/1/p2p/{OWN}", Place("2600::1", 1, OWN)),
    (f"/ip6/2600:0:0:0::1/tcp/1/p2p/{OWN}", Place("2600::1", 1, OWN)),
    (f"/ip6/::ffff:8.8.8.8/tcp/1/p2p/{OWN}", Place("8.8.8.8", 1, OWN)),
    (f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}", Place("8.8.8.8", 1, RELAY)),
    (f"/ip4/8.8.8.8/udp/1/quic-v1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}", Place("8.8.8.8", 1, RELAY)),
    (f"/ip4/8.8.8.8/tcp/0/p2p/{OWN}", None),
    ("/ip4/8.8.8.8/tcp/1", None),
    (f"/ip4/8.8.8.8/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/udp/1/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/udp/1/quic/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/udp/1/quic-v1/webtransport/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/udp/1/webrtc-direct/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/tcp/80/ws/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/tcp/443/tls/ws/p2p/{OWN}", None),
    (f"/dns4/victim.example/tcp/443/wss/p2p/{OWN}", None),
    (f"/dns/victim.example/tcp/443/p2p/{OWN}", None),
    (f"/dnsaddr/victim.example/p2p/{OWN}", None),
    (f"/memory/0/p2p/{OWN}", None),
    (f"/p2p/{RELAY}/p2p-circuit/p2p/{OWN}", None),
    (f"/ip4/8.8.8.8/tcp/1/p2p/{RELAY}/p2p-circuit", None),
]


@pytest.mark.parametrize(("address", "place"), PLACES)
def test_what_may_be_named(address: str, place: Place | None) -> None:
    assert place_of(address) == place


def test_what_is_no_address_is_an_error() -> None:
    with pytest.raises(ValueError, match="not a multiaddr"):
        place_of("8.8.8.8:1")


HOSTS: list[tuple[str, Scope | None]] = [
    ("8.8.8.8", PUBLIC),
    ("11.0.0.1", PUBLIC),
    ("2600::1", PUBLIC),
    ("10.0.0.1", PRIVATE),
    ("172.17.0.1", PRIVATE),
    ("192.168.1.1", PRIVATE),
    ("100.64.0.1", PRIVATE),
    ("203.0.113.7", PRIVATE),
    ("198.18.0.1", PRIVATE),
    ("fd00::1", PRIVATE),
    ("2001:db8::1", PRIVATE),
    ("127.0.0.1", LOOPBACK),
    ("127.8.8.8", LOOPBACK),
    ("::1", LOOPBACK),
    ("::ffff:127.0.0.1", LOOPBACK),
    ("::ffff:192.168.1.1", PRIVATE),
    ("::ffff:8.8.8.8", PUBLIC),
    ("0.0.0.0", None),
    ("0.1.2.3", None),
    ("::", None),
    ("::ffff:0.0.0.0", None),
    ("255.255.255.255", None),
    ("240.0.0.1", None),
    ("224.0.0.251", None),
    ("ff02::1", None),
    ("169.254.169.254", None),
    ("fe80::1", None),
    ("2002:c0a8:0101::1", None),
    ("64:ff9b::c0a8:101", None),
    ("2001:0:c0a8::1", None),
    ("::192.168.1.1", None),
]


@pytest.mark.parametrize(("host", "scope"), HOSTS)
def test_where_an_address_can_be_dialled(host: str, scope: Scope | None) -> None:
    assert scope_of_host(host) is scope


def at(host: str, rest: str = "") -> str:
    return f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/1/p2p/{RELAY + '/p2p-circuit/p2p/' if rest else ''}{OWN}"


@pytest.mark.parametrize(
    ("host", "dialled_in"),
    [
        ("8.8.8.8", {PUBLIC, PRIVATE, LOOPBACK}),
        ("192.168.1.1", {PRIVATE, LOOPBACK}),
        ("::ffff:192.168.1.1", {PRIVATE, LOOPBACK}),
        ("127.0.0.1", {LOOPBACK}),
        ("169.254.169.254", set()),
        ("0.0.0.0", set()),
    ],
)
@pytest.mark.parametrize("rest", ["", "through a relay"])
def test_no_nearer_than_the_network_is(host: str, dialled_in: set[Scope], rest: str) -> None:
    assert {scope for scope in Scope if may_dial(at(host, rest), scope)} == dialled_in


NAME = f"/dns4/boot.example/tcp/31337/p2p/{OTHER}"


@pytest.mark.parametrize(
    ("named", "scope"),
    [
        ((), LOOPBACK),
        ((at("127.0.0.1"),), LOOPBACK),
        ((at("8.8.8.8"),), PUBLIC),
        ((at("8.8.8.8"), at("192.168.1.1")), PRIVATE),
        ((at("8.8.8.8"), at("::1")), LOOPBACK),
        ((at("8.8.8.8", "through a relay"),), PUBLIC),
        ((NAME,), PUBLIC),
        ((NAME, at("10.0.0.1")), PRIVATE),
        (("/ip4/8.8.8.8/tcp/443/wss/p2p/" + OTHER,), PUBLIC),
    ],
)
def test_a_network_is_as_near_as_its_nearest_entry(named: tuple[str, ...], scope: Scope) -> None:
    assert scope_of_network(named) is scope


# ---- what a worker announces


def circuit(relay: str, port: int) -> str:
    return f"/ip4/8.8.8.8/tcp/{port}/p2p/{relay}/p2p-circuit/p2p/{OWN}"


def direct(port: int) -> str:
    return f"/ip4/9.9.9.9/tcp/{port}/p2p/{OWN}"


HOME = (at("192.168.1.5"), at("172.17.0.1"), at("127.0.0.1"))

RECORDED: dict[str, tuple[tuple[str, ...], Scope, tuple[str, ...]]] = {
    "at home, without a relay": (HOME, PUBLIC, ()),
    "at home, on a network at home": (HOME, PRIVATE, (at("172.17.0.1"), at("192.168.1.5"))),
    "on one machine": ((at("127.0.0.1"),), LOOPBACK, (at("127.0.0.1"),)),
    "at home, with a relay": ((*HOME, circuit(RELAY, 1)), PUBLIC, (circuit(RELAY, 1),)),
    "through a relay at home": ((f"/ip4/10.0.0.1/tcp/1/p2p/{RELAY}/p2p-circuit/p2p/{OWN}",), PUBLIC, ()),
    "direct before relayed": ((circuit(RELAY, 1), direct(1)), PUBLIC, (direct(1), circuit(RELAY, 1))),
    "many direct ones": (tuple(map(direct, range(1, 10))), PUBLIC, tuple(map(direct, range(1, 9)))),
    "many of both": (
        (*map(direct, range(1, 10)), *(circuit(RELAY, port) for port in range(1, 10))),
        PUBLIC,
        (*map(direct, range(1, 5)), *(circuit(RELAY, port) for port in range(1, 5))),
    ),
    "each relay has its turn": (
        (*(circuit(RELAY, port) for port in range(1, 10)), circuit(OTHER, 99)),
        PUBLIC,
        (circuit(RELAY, 1), circuit(OTHER, 99), *(circuit(RELAY, port) for port in range(2, 8))),
    ),
}


@pytest.mark.parametrize(("own", "scope", "recorded"), RECORDED.values(), ids=RECORDED)
def test_what_a_record_names(own: tuple[str, ...], scope: Scope, recorded: tuple[str, ...]) -> None:
    assert worth_recording(own, scope) == recorded
    assert len(recorded) <= MAX_ADDRESSES
