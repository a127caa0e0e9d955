"""Answers questions about multiaddrs from their text. Knows nothing of who asks, and opens no socket.

https://github.com/multiformats/multiaddr
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from p2pnet.errors import UsageError

EXAMPLE = "/ip4/203.0.113.7/tcp/31337/p2p/12D3KooW..."

FAMILIES = {"ip4": "IPv4", "ip6": "IPv6"}
"""As a person calls them."""

GROUP_BITS = {4: 24, 6: 48}
"""Of addresses that count as one, by IP version: what one customer of a provider is usually given."""

_PARSED = 8192
"""Addresses whose parts are remembered, some 4 MB: a worker's are looked at with each request that it is sent."""

_PLAIN = re.compile(r"/[\x21-\x7e]+")
"""A slash, then printable ASCII. The parser also takes addresses without the one, and strips white space around them,
which would go on into logs and terminals."""


@lru_cache(_PARSED)
def parts_of(address: str) -> tuple[tuple[str, str], ...]:
    """The address as (protocol, value) pairs, at least one. Raises ValueError when it is no multiaddr."""
    try:
        parts = tuple((protocol.name, str(value or "")) for protocol, value in Multiaddr(address).items())
    except (MultiaddrError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"not a multiaddr: {address!r}") from error
    if not (parts and _PLAIN.fullmatch(address)):
        raise ValueError(f"not a multiaddr: {address!r}")
    return parts


def peer_id_of(address: str) -> str | None:
    """The peer the address leads to: its last /p2p part. None when the address ends in anything else."""
    name, value = parts_of(address)[-1]
    return value if name == "p2p" else None


def family_of(address: str) -> str:
    """What the address begins with: one of FAMILIES, or how a name is to be looked up."""
    return parts_of(address)[0][0]


def without_peer_id(address: str) -> str:
    """The address up to its last /p2p part."""
    return address.rsplit("/p2p/", 1)[0]


def is_relayed(address: str) -> bool:
    return "/p2p-circuit" in address


def are_all_relayed(addresses: Sequence[str]) -> bool:
    """Whether relays are all that a peer says of how it is reached."""
    return bool(addresses) and all(map(is_relayed, addresses))


def relay_of(address: str) -> str | None:
    """The peer through which a circuit address leads; None for any other. Raises ValueError when it is no multiaddr."""
    parts = parts_of(address)
    names = [name for name, _ in parts]
    if "p2p-circuit" not in names:
        return None
    before = parts[: names.index("p2p-circuit")]
    return next((value for name, value in reversed(before) if name == "p2p"), None)


def check_listen_address(address: str) -> str:
    """An address to listen on or announce. Raises UsageError."""
    return _checked(address, "/ip4/0.0.0.0/tcp/31337")


def check_peer_address(address: str) -> str:
    """A full address of a peer, /p2p part included. Raises UsageError."""
    if peer_id_of(_checked(address, EXAMPLE)) is None:
        raise UsageError(
            f"{address} does not say which peer it leads to.", f"Add the peer's id at the end, as in {EXAMPLE}."
        )
    return address


def worth_announcing(addresses: Iterable[str]) -> tuple[str, ...]:
    """Addresses for others to dial, best first; loopback ones only when there is nothing else."""
    unique = sorted(set(addresses), key=_rank)
    elsewhere = [address for address in unique if not is_loopback(address)]
    return tuple(elsewhere or unique)


def best_first(addresses: Iterable[str]) -> list[str]:
    """For a person to hand on, the best one first. What is no multiaddr, a web page for example, comes before."""
    return sorted(addresses, key=lambda each: _rank(each) if each.startswith("/") else (False,) * 5 + ("",))


def best_to_share(addresses: Sequence[str]) -> str | None:
    """The address to print for a person to copy."""
    return min(addresses, key=_rank, default=None)


def _rank(address: str) -> tuple[bool, bool, bool, bool, bool, str]:
    """Direct before relayed, loopback last, IPv4 before IPv6 (many have no other, and public IPv6 addresses often lie
    behind firewalls), public before private, TCP before QUIC (firewalls often drop UDP)."""
    is_ip6 = family_of(address) == "ip6"
    return is_relayed(address), is_loopback(address), is_ip6, is_private(address), "/udp/" in address, address


def _host_of(address: str) -> str:
    name, value = parts_of(address)[0]
    return value if name in ("ip4", "ip6") else ""


def is_loopback(address: str) -> bool:
    host = _host_of(address)
    return bool(host) and ipaddress.ip_address(host).is_loopback


def is_private(address: str) -> bool:
    host = _host_of(address)
    return bool(host) and ipaddress.ip_address(host).is_private


@lru_cache(maxsize=4096)
def address_group(address: str) -> str:
    """Who shares one bound with whoever's connection comes from this address: an IPv4 /24 or an IPv6 /48, of which one
    customer may have all addresses; on a private network, where each machine is somebody's, the address alone. Those
    who come through a relay share its."""
    try:
        host = ipaddress.ip_address(_host_of(address))
    except ValueError:
        return "elsewhere"
    bits = host.max_prefixlen if host.is_private else GROUP_BITS[host.version]
    return str(ipaddress.ip_network((host, bits), strict=False))


def _checked(address: str, example: str) -> str:
    try:
        parts_of(address)
    except ValueError as error:
        raise UsageError(f"{address!r} is not a multiaddr.", f"It should look like {example}.") from error
    return address
