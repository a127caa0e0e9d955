"""Says which ports a peer listens on: those it was told to, and for port 0 the ones that p2pd has chosen.

Functions of addresses' text alone. Knows nothing of p2pd.
"""

from __future__ import annotations

from collections.abc import Sequence

from p2pnet.errors import DaemonFailed
from p2pnet.network.multiaddrs import parts_of


def check_bound(listen: Sequence[str], bound: Sequence[str]) -> None:
    """p2pd goes on when one of several addresses cannot be bound; we do not. Raises DaemonFailed."""
    wanted = [_transport(address) for address in listen]
    missing = [port for port in wanted if port[1] != "0" and port not in map(_transport, bound)]
    if missing:
        raise DaemonFailed(f"Port {missing[0][1]} ({missing[0][0]}) is in use.", "Name another address with --listen.")


def with_chosen_ports(listen: Sequence[str], bound: Sequence[str]) -> tuple[str, ...]:
    """The listen addresses with the ports that were `bound` in place of 0."""
    ports = dict(_transport(address) for address in bound)
    return tuple(_with_port(address, ports) for address in listen)


def _transport(address: str) -> tuple[str, str]:
    """('tcp' or 'udp', port) of a listen address."""
    return next(((name, value) for name, value in parts_of(address) if name in ("tcp", "udp")), ("", "0"))


def _with_port(address: str, ports: dict[str, str]) -> str:
    name, port = _transport(address)
    return address.replace(f"/{name}/0", f"/{name}/{ports.get(name, port)}", 1) if port == "0" else address
