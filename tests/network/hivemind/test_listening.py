"""Ports that were asked for and ports that p2pd has chosen."""

from __future__ import annotations

import pytest

from p2pnet.errors import DaemonFailed
from p2pnet.network.hivemind.listening import cannot_listen, check_bound, with_chosen_ports

TCP_ANY, TCP_1 = "/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/31337"
UDP_ANY, UDP_1 = "/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/udp/31337/quic-v1"
BOUND_TCP = ("/ip4/127.0.0.1/tcp/31337", "/ip4/192.0.2.1/tcp/31337")
BOUND_UDP = ("/ip4/127.0.0.1/udp/4001/quic-v1",)
SIX_ANY, SIX_1 = "/ip6/::/tcp/0", "/ip6/::/tcp/31337"
BOUND_SIX = ("/ip6/::1/tcp/4006",)


@pytest.mark.parametrize(
    ("listen", "bound"),
    [
        ((TCP_ANY, UDP_ANY, SIX_ANY), ()),
        ((TCP_1,), BOUND_TCP),
        ((TCP_1, UDP_ANY), BOUND_TCP),
        ((TCP_1, SIX_ANY), BOUND_TCP),  # a machine without IPv6
        ((TCP_1, SIX_1), (*BOUND_TCP, "/ip6/::1/tcp/31337")),
        ((), BOUND_TCP),
    ],
)
def test_what_is_bound(listen: tuple[str, ...], bound: tuple[str, ...]) -> None:
    check_bound(listen, bound)


@pytest.mark.parametrize(
    ("listen", "bound", "missing"),
    [
        ((TCP_1,), (), "31337 (tcp)"),
        ((TCP_1, UDP_1), BOUND_TCP, "31337 (udp)"),
        ((TCP_1, UDP_1), BOUND_UDP, "31337 (tcp)"),
        ((TCP_1, SIX_1), (*BOUND_TCP, *BOUND_SIX), "31337 (tcp)"),
    ],
)
def test_what_is_not_bound(listen: tuple[str, ...], bound: tuple[str, ...], missing: str) -> None:
    with pytest.raises(DaemonFailed) as raised:
        check_bound(listen, bound)
    assert str(raised.value) == f"Port {missing} is in use."


def test_a_machine_without_ipv6_is_asked_for_a_port_there() -> None:
    with pytest.raises(DaemonFailed) as raised:
        check_bound((TCP_1, SIX_1), BOUND_TCP)
    assert raised.value.message == "This machine has no IPv6 to listen on."
    assert "--listen /ip6" in raised.value.fix


@pytest.mark.parametrize(
    ("listen", "bound", "kept"),
    [
        ((TCP_ANY, UDP_ANY), (*BOUND_TCP, *BOUND_UDP), (TCP_1, "/ip4/0.0.0.0/udp/4001/quic-v1")),
        ((TCP_1, UDP_ANY), (*BOUND_TCP, *BOUND_UDP), (TCP_1, "/ip4/0.0.0.0/udp/4001/quic-v1")),
        ((UDP_1, TCP_ANY), BOUND_UDP, (UDP_1, TCP_ANY)),
        ((TCP_ANY, SIX_ANY), (*BOUND_TCP, *BOUND_SIX), (TCP_1, "/ip6/::/tcp/4006")),
        ((TCP_ANY, SIX_ANY), BOUND_TCP, (TCP_1, SIX_ANY)),
    ],
)
def test_ports_once_chosen_are_kept(listen: tuple[str, ...], bound: tuple[str, ...], kept: tuple[str, ...]) -> None:
    assert with_chosen_ports(listen, bound) == kept


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "failed to listen on any addresses: [listen tcp4 127.0.0.1:42051: bind: address already in use "
            "listen udp4 127.0.0.1:58597: bind: address already in use]",
            "Port 42051 (tcp) at 127.0.0.1 is in use by another process.",
        ),
        ("[listen udp6 [::]:80: bind: permission denied]", "Port 80 (udp) is not for this user to listen on."),
        ("[listen tcp4 9.9.9.9:1: bind: cannot assign requested address]", "9.9.9.9 is no address of this machine."),
        ("failed to listen on any addresses: []", "No address to listen on could be had."),
    ],
)
def test_why_nothing_is_listened_on(said: str, message: str) -> None:
    error = cannot_listen(said)
    assert error.message == message
    assert "--listen" in error.fix
