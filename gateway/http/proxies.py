"""Finds the address that a request comes from when it has passed proxies.

Each proxy adds the address that it was called from at the end of X-Forwarded-For. So the list is read from its end, for
as long as those who wrote it are trusted; what stands before that, anybody may have made up. Knows nothing of sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from p2pnet.errors import UsageError

FORWARDED_FOR = b"x-forwarded-for"

HOME_PREFIX_BITS = 64
"""What one home or one server is given of IPv6 (RFC 6177): it has more addresses than all others have together, so they
count as one caller."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Proxies:
    """The proxies that are believed when they name an address."""

    trusted: tuple[Network, ...] = ()

    def caller_of(self, peer: str, headers: Headers) -> str:
        """The name under which a keyless request takes its turns. `peer` is where its connection comes from."""
        address = _address(peer)
        if address is None:
            return peer
        if self._trusts(address):
            address = self._forwarded(address, headers)
        if isinstance(address, IPv6Address):
            return str(IPv6Network((address, HOME_PREFIX_BITS), strict=False))
        return str(address)

    def trusts(self, peer: str) -> bool:
        """Whether what comes from there may be anybody's."""
        address = _address(peer)
        return address is not None and self._trusts(address)

    def _forwarded(self, peer: Address, headers: Headers) -> Address:
        """The last address that a trusted proxy has named, or else the proxy itself."""
        nearest = peer
        hops = b",".join(value for name, value in headers if name == FORWARDED_FOR).decode("latin-1").split(",")
        for hop in reversed(hops):
            address = _address(hop.strip())
            if address is None:
                break
            nearest = address
            if not self._trusts(address):
                break
        return nearest

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.trusted)


def parse_proxies(given: Sequence[str]) -> Proxies:
    """The proxies with these addresses or in these networks. Raises UsageError."""
    return Proxies(tuple(map(_network, given)))


def _network(text: str) -> Network:
    try:
        network = ip_network(text)
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no address of a proxy, and no network.",
            "Write it as --trusted-proxy 127.0.0.1 or 10.0.0.0/8.",
        ) from error
    if network.prefixlen == 0:
        raise UsageError(
            f"{text} is everybody: whoever sends a request could choose its address.",
            "Name the addresses of your proxies with --trusted-proxy.",
        )
    return network


def _address(text: str) -> Address | None:
    """Also of `1.2.3.4:5678` and `[2001:db8::1]:5678`, as some proxies write them; an IPv4 address in IPv6's dress is
    itself. None: it is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
