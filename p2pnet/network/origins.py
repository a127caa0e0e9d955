"""Says where a connection comes from, for limits by address: what one household can have many of counts as one.

A function of an address's text alone. Knows nothing of what is limited.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from p2pnet.network.multiaddrs import parts_of, relay_of

IPV6_HOUSEHOLD_BITS = 56
"""What a provider gives to one customer: all addresses in it are one's own to choose."""

RELAYED = "relay "
"""How the origin of a relayed connection begins: who is behind the relay cannot be seen, and the relay is no liar's
choice alone."""


@lru_cache(maxsize=8192)
def origin_of(address: str) -> str:
    """The IPv4 address, the IPv6 network of a household, or the relay that a multiaddr leads through. Of anything else,
    all of it."""
    try:
        relay = relay_of(address)
        if relay is not None:
            return RELAYED + relay
        name, host = parts_of(address)[0]
        if name == "ip6":
            return _origin_of_ip6(ipaddress.IPv6Address(host))
        return host if name == "ip4" else address
    except ValueError:
        return address


def is_behind_relay(origin: str) -> bool:
    return origin.startswith(RELAYED)


def _origin_of_ip6(host: ipaddress.IPv6Address) -> str:
    if host.ipv4_mapped is not None:
        return str(host.ipv4_mapped)
    return str(ipaddress.IPv6Network((host, IPV6_HOUSEHOLD_BITS), strict=False))
