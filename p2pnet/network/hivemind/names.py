"""Looks up the names in multiaddrs: records name IP addresses alone, as a name makes others ask for it and dial it.

Asks the system, as everything else on the machine does. Knows nothing of who wants to know.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable

from p2pnet.network.multiaddrs import parts_of

logger = logging.getLogger(__name__)

LOOKUP_S = 5.0
"""For one name: a resolver asks another server after this. An announcement does not wait for longer."""

FAMILIES = {"dns": (socket.AF_INET, socket.AF_INET6), "dns4": (socket.AF_INET,), "dns6": (socket.AF_INET6,)}
PROTOCOLS = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}

Lookup = Callable[[str, socket.AddressFamily], Awaitable[list[str]]]
"""The IP addresses of one family that a name stands for. Raises OSError."""


async def resolved(addresses: Iterable[str], lookup: Lookup | None = None) -> tuple[str, ...]:
    """The addresses, with those of IP in place of those with a name; a name that stands for none is left out."""
    found: list[str] = []
    for address in addresses:
        kind, name = parts_of(address)[0]
        if kind not in FAMILIES:
            found.append(address)
            continue
        rest = address.split("/", 3)[3]
        for family in FAMILIES[kind]:
            found += [f"/{PROTOCOLS[family]}/{ip}/{rest}" for ip in await _looked_up(name, family, lookup or look_up)]
    return tuple(found)


async def look_up(name: str, family: socket.AddressFamily) -> list[str]:
    """What the system says."""
    infos = await asyncio.get_running_loop().getaddrinfo(name, None, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def _looked_up(name: str, family: socket.AddressFamily, lookup: Lookup) -> list[str]:
    try:
        async with asyncio.timeout(LOOKUP_S):
            return await lookup(name, family)
    except (OSError, TimeoutError, UnicodeError) as error:
        logger.debug("%s stands for no address of %s: %s", name, PROTOCOLS[family], error)
        return []
