"""Finds out whether anybody is at an address again, before p2pd is asked to dial it.

p2pd leaves an address alone after a dial that failed: for 5 s, then 6, 9, 14 and so on up to 5 minutes, and cannot be
told that something has changed. So who was lost is knocked at, by a socket of our own, and dialled once somebody
answers. Knows nothing of p2pd, nor of who it is that answers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.network.multiaddrs import is_relayed, parts_of, relay_of

KNOCK_S = 1.5
"""Once around the world and back, and again, for a packet that was lost."""

HOST_NAMES = ("ip4", "ip6", "dns", "dns4", "dns6")

MAX_KNOCKS = 4
"""Addresses of one peer that are knocked at: one for TCP and one for QUIC, over IPv4 and IPv6."""

MAX_CIRCUITS = 4
"""Relays of one peer that are asked whether they lead to it."""

_UNKNOWN_VERSION = bytes.fromhex("1a2a3a4a")
"""One of those that are reserved to be unknown: whoever speaks QUIC answers with the versions that it speaks, and keeps
nothing. (RFC 9000, 6 and 15.)"""

_MIN_DATAGRAM_BYTES = 1200
"""Smaller ones are not answered (RFC 9000, 14.1)."""


async def knock(addresses: Sequence[str]) -> bool:
    """Whether somebody answers at any of these multiaddrs; True when none of them can be knocked at."""
    places = [parts_of(address)[:2] for address in addresses if not is_relayed(address)]
    doors = [
        (host, int(port), transport)
        for (family, host), (transport, port) in (place for place in places if len(place) == 2)
        if family in HOST_NAMES and transport in ("tcp", "udp")
    ][:MAX_KNOCKS]
    if not doors:
        return True
    knocks = [asyncio.create_task(_answers(*door)) for door in doors]
    try:
        for first in asyncio.as_completed(knocks):
            if await first:
                return True
    finally:
        for task in knocks:
            task.cancel()
        await asyncio.gather(*knocks, return_exceptions=True)
    return False


async def answering(addresses: Sequence[str], leads: Callable[[str], Awaitable[bool]]) -> Sequence[str]:
    """Those of a peer's full multiaddrs where somebody answers: all of them when anybody does directly, or else those
    through the relay that is the first to say that it leads there. `leads` asks the relay of a circuit address.

    One relay alone: p2pd dials a peer through one after the other, and gives each five seconds. One that has gone must
    not be among them.
    """
    direct = [address for address in addresses if not is_relayed(address)]
    if direct and await knock(direct):
        return addresses
    by_relay: dict[str | None, list[str]] = {}
    for address in filter(is_relayed, addresses):
        by_relay.setdefault(relay_of(address), []).append(address)

    async def asked(circuits: Sequence[str]) -> Sequence[str]:
        return circuits if await leads(circuits[0]) else ()

    asking = [asyncio.create_task(asked(circuits)) for circuits in list(by_relay.values())[:MAX_CIRCUITS]]
    try:
        for first in asyncio.as_completed(asking):
            if circuits := await first:
                return circuits
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return ()


async def _answers(host: str, port: int, transport: str) -> bool:
    try:
        async with asyncio.timeout(KNOCK_S):
            return await (_accepts(host, port) if transport == "tcp" else _speaks_quic(host, port))
    except (OSError, TimeoutError):
        return False


async def _accepts(host: str, port: int) -> bool:
    _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()
    return True


async def _speaks_quic(host: str, port: int) -> bool:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(_Answer, remote_addr=(host, port))
    try:
        transport.sendto(version_question())
        return await protocol.came
    finally:
        transport.close()


def version_question() -> bytes:
    """A long header of a version that nobody speaks, with two random connection ids of 8 bytes (RFC 8999)."""
    header = b"\xc0" + _UNKNOWN_VERSION + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8)
    return header.ljust(_MIN_DATAGRAM_BYTES, b"\0")


class _Answer(asyncio.DatagramProtocol):
    """Any answer will do: who has none sends nothing, or an ICMP error."""

    def __init__(self) -> None:
        self.came: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._settle(True)

    def error_received(self, exc: Exception) -> None:
        self._settle(False)

    def _settle(self, is_there: bool) -> None:
        if not self.came.done():
            self.came.set_result(is_there)
