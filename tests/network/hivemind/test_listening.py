"""Ports that were asked for and ports that p2pd has chosen."""

from __future__ import annotations

import pytest

from p2pnet.errors import DaemonFailed
from p2pnet.network.hivemind.listening import check_bound, with_chosen_ports

TCP_ANY, TCP_1 = "/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/31337"
UDP_ANY, UDP_1 = "/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/udp/31337/quic-v1"
BOUND_TCP = ("/ip4/127.0.0.1/tcp/31337", "/ip4/192.0.2.1/tcp/31337")
BOUND_UDP = ("/ip4/127.0.0.1/udp/4001/quic-v1",)


@pytest.mark.parametrize(
    ("listen", "bound"),
    [((TCP_ANY, UDP_ANY), ()), ((TCP_1,), BOUND_TCP), ((TCP_1, UDP_ANY), BOUND_TCP), ((), BOUND_TCP)],
)
def test_what_is_bound(listen: tuple[str, ...], bound: tuple[str, ...]) -> None:
    check_bound(listen, bound)


@pytest.mark.parametrize(
    ("listen", "bound", "missing"),
    [
        ((TCP_1,), (), "31337 (tcp)"),
        ((TCP_1, UDP_1), BOUND_TCP, "31337 (udp)"),
        ((TCP_1, UDP_1), BOUND_UDP, "31337 (tcp)"),
    ],
)
def test_what_is_not_bound(listen: tuple[str, ...], bound: tuple[str, ...], missing: str) -> None:
    with pytest.raises(DaemonFailed) as raised:
        check_bound(listen, bound)
    assert str(raised.value) == f"Port {missing} is in use."


@pytest.mark.parametrize(
    ("listen", "bound", "kept"),
    [
        ((TCP_ANY, UDP_ANY), (*BOUND_TCP, *BOUND_UDP), (TCP_1, "/ip4/0.0.0.0/udp/4001/quic-v1")),
        ((TCP_1, UDP_ANY), (*BOUND_TCP, *BOUND_UDP), (TCP_1, "/ip4/0.0.0.0/udp/4001/quic-v1")),
        ((UDP_1, TCP_ANY), BOUND_UDP, (UDP_1, TCP_ANY)),
    ],
)
def test_ports_once_chosen_are_kept(listen: tuple[str, ...], bound: tuple[str, ...], kept: tuple[str, ...]) -> None:
    assert with_chosen_ports(listen, bound) == kept
