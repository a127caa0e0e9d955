"""Asks one peer how it sees this one, and to dial it back.

Knows nothing of p2pd: it is handed what opens streams.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from p2pnet.errors import P2PNetError
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.autonat import (
    AUTONAT_PROTOCOL,
    IDENTIFY_PROTOCOL,
    DialBack,
    dial_back,
    dialable,
    observed_address,
)
from p2pnet.network.multiaddrs import family_of, is_loopback, is_private, is_relayed

DIAL_BACK_S = 20.0
"""A peer tries for 15 s before it says that we cannot be reached."""

ANSWER_S = 10.0
"""For what is one question and one answer."""

OpenRaw = Callable[[str, str], Awaitable[Stream]]
"""Open a stream of one of libp2p's own protocols to a peer. Raises PeerUnreachable."""


@dataclass(frozen=True)
class Tried:
    """Addresses at which a peer was asked to dial us, by one transport, and what came of it."""

    transport: str
    addresses: tuple[str, ...]
    outcome: DialBack


@dataclass(frozen=True)
class Sight:
    """How one peer sees us. `observed` is our address there; None when it did not say. A private one is not dialled."""

    peer_id: str
    observed: str | None = None
    tried: tuple[Tried, ...] = ()

    @property
    def family(self) -> str | None:
        """Whether it sees us over IPv4 or IPv6, and has dialled us so."""
        return None if self.observed is None else family_of(self.observed)

    @property
    def is_near(self) -> bool:
        """Whether it sees us at a private address: it is on our own network, and says nothing of others."""
        return self.observed is not None and (is_private(self.observed) or is_loopback(self.observed))

    @property
    def outcome(self) -> DialBack:
        """Whether we can be reached in one way at least."""
        outcomes = {each.outcome for each in self.tried}
        return next((each for each in DialBack if each in outcomes), DialBack.NOT_TRIED)


async def seen_at(open_raw: OpenRaw, peer_id: str, within_s: float) -> str | None:
    """Where a peer sees us, as a multiaddr; None when it does not say within that time. Never raises."""
    try:
        async with asyncio.timeout(within_s):
            stream = await open_raw(peer_id, IDENTIFY_PROTOCOL)
            try:
                return await observed_address(stream)
            finally:
                stream.close()
    except (P2PNetError, TimeoutError):
        return None


async def look(open_raw: OpenRaw, peer_id: str, own_id: str, own_addresses: Sequence[str]) -> Sight:
    """Ask a peer. Never raises."""
    observed = await seen_at(open_raw, peer_id, ANSWER_S)
    seen = Sight(peer_id, observed)
    if observed is None or seen.is_near or is_relayed(observed):
        return seen
    where = dialable(observed, own_addresses)
    outcomes = await asyncio.gather(*(_dialled(open_raw, peer_id, own_id, addresses) for addresses in where.values()))
    tried = (
        Tried(name, addresses, outcome) for (name, addresses), outcome in zip(where.items(), outcomes, strict=True)
    )
    return Sight(peer_id, observed, tuple(tried))


async def _dialled(open_raw: OpenRaw, peer_id: str, own_id: str, addresses: Sequence[str]) -> DialBack:
    try:
        async with asyncio.timeout(DIAL_BACK_S):
            stream = await open_raw(peer_id, AUTONAT_PROTOCOL)
            try:
                return await dial_back(stream, own_id, addresses)
            finally:
                stream.close()
    except (P2PNetError, TimeoutError):
        return DialBack.NOT_TRIED
