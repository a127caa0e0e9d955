"""Says which ports a peer listens on: those it was told to, and for port 0 the ones that p2pd has chosen. And why it
cannot listen.

Functions of text alone: of addresses, and of what p2pd says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from p2pnet.errors import DaemonFailed
from p2pnet.network.multiaddrs import parts_of

_UNBOUND = re.compile(
    r"listen (tcp|udp)[46]? (\S+):(\d+): bind: (address already in use|cannot assign|permission denied)"
)
"""In what p2pd says when it can listen nowhere, for each address."""


def cannot_listen(said: str) -> DaemonFailed:
    """Why p2pd listens nowhere, and what to do about it."""
    found = _UNBOUND.search(said)
    if found is None:
        return DaemonFailed("No address to listen on could be had.", "Name another one with --listen.")
    transport, host, port, why = found.groups()
    if why == "address already in use":
        return DaemonFailed(
            f"Port {port} ({transport}) at {host} is in use by another process.",
            "Stop that one, or name another port with --listen.",
        )
    if why == "permission denied":
        return DaemonFailed(
            f"Port {port} ({transport}) is not for this user to listen on.", "Name one above 1023 with --listen."
        )
    return DaemonFailed(f"{host} is no address of this machine.", "Name one that is with --listen.")


def check_bound(listen: Sequence[str], bound: Sequence[str]) -> None:
    """p2pd goes on when one of several addresses cannot be bound; we do not, where a port was named. Raises
    DaemonFailed."""
    has = set(map(_door, bound))
    missing = [door for door in map(_door, listen) if door[2] != "0" and door not in has]
    if not missing:
        return
    family, transport, port = missing[0]
    if family == "ip6" and family not in {each for each, _, _ in has}:
        raise DaemonFailed("This machine has no IPv6 to listen on.", "Leave out what begins with --listen /ip6.")
    raise DaemonFailed(f"Port {port} ({transport}) is in use.", "Name another address with --listen.")


def with_chosen_ports(listen: Sequence[str], bound: Sequence[str]) -> tuple[str, ...]:
    """The listen addresses with the ports that were `bound` in place of 0."""
    ports = {(family, transport): port for family, transport, port in map(_door, bound)}
    return tuple(_with_port(address, ports) for address in listen)


def _door(address: str) -> tuple[str, str, str]:
    """('ip4' or 'ip6', 'tcp' or 'udp', port) of a listen address."""
    (family, _), *rest = parts_of(address)
    transport, port = next(((name, value) for name, value in rest if name in ("tcp", "udp")), ("", "0"))
    return family, transport, port


def _with_port(address: str, ports: dict[tuple[str, str], str]) -> str:
    family, name, port = _door(address)
    return address.replace(f"/{name}/0", f"/{name}/{ports.get((family, name), port)}", 1) if port == "0" else address
