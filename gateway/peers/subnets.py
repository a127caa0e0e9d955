"""Says in which subnets addresses are.

Whoever has one address has a whole subnet of them, and identities cost nothing: those of one subnet count as one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

IPV4_BITS = 24
IPV6_BITS = 48
"""What one customer of a provider is usually given: smaller parts are free to who has one."""


@lru_cache(maxsize=1 << 13)
def subnets_of(addresses: Sequence[str]) -> frozenset[str]:
    """Those of all its addresses: one more that is invented takes it out of none.

    A circuit address counts by its relay's: who is behind a relay says nothing of where it is, and a relay costs as
    little as an identity. Private addresses are the same in every home, and count only where there are no others."""
    hosts = [address.split("/", 3)[1:3] for address in addresses]
    subnets = [_subnet_of(*host) for host in hosts if len(host) == 2]
    return frozenset(name for name, is_global in subnets if is_global) or frozenset(name for name, _ in subnets)


def _subnet_of(kind: str, host: str) -> tuple[str, bool]:
    """Its name, and whether it is the same one everywhere."""
    if kind not in ("ip4", "ip6"):
        return host, True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host, False
    return subnet_of(address), address.is_global


def subnet_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    bits = IPV4_BITS if address.version == 4 else IPV6_BITS
    return str(ipaddress.ip_network((address, bits), strict=False))
