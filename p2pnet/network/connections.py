"""Knows which peers this one is connected to, and dials the others.

Knows neither p2pd nor streams: it is handed what dials and what hangs up.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence

from p2pnet.network.multiaddrs import peer_id_of

MAX_KNOWN_PEERS = 1024
"""How many peers' addresses are remembered for dialling, the oldest leaving first."""

Dial = Callable[[str, Sequence[str]], Awaitable[None]]
"""Connect to a peer at these full multiaddrs, or wherever it is found where there are none. At once when connected."""

HangUp = Callable[[str], Awaitable[None]]
"""Close all connections to a peer. Never raises."""


class Connections:
    """What one peer believes of its connections. It may be wrong: one that has gone is noticed by using it."""

    def __init__(self, dial: Dial, hang_up: HangUp) -> None:
        self._dial = dial
        self._hang_up = hang_up
        self._known: dict[str, tuple[str, ...]] = {}
        self._connected: set[str] = set()
        self._hanging_up: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, peer_id: str) -> bool:
        return peer_id in self._connected

    def knows(self, peer_id: str) -> bool:
        """Whether it is known where to dial it."""
        return peer_id in self._known

    def newest_addresses(self, count: int) -> list[str]:
        """One of each of those that were learnt last."""
        return [addresses[0] for addresses in self._known.values()][-count:]

    def learn(self, addresses: Iterable[str]) -> None:
        """Full multiaddrs, which replace what was known of their peers. Others are passed over."""
        by_peer: defaultdict[str, list[str]] = defaultdict(list)
        for address in addresses:
            if (peer_id := peer_id_of(address)) is not None:
                by_peer[peer_id].append(address)
        for peer_id, known in by_peer.items():
            self._known.pop(peer_id, None)
            self._known[peer_id] = tuple(known)
        while len(self._known) > MAX_KNOWN_PEERS:
            del self._known[next(iter(self._known))]

    def has_moved(self, peer_id: str, addresses: Iterable[str]) -> bool:
        """Whether none of its addresses is one where it was known to be: it has been started anew, or its machine is in
        another network. A connection to where it was may pass for alive for half a minute more."""
        known, now = self._known.get(peer_id), set(addresses)
        return known is not None and bool(now) and now.isdisjoint(known)

    async def connect(self, peer_id: str) -> None:
        """Dial a peer, unless it is connected. Raises what dialling raises."""
        while (leaving := self._hanging_up.get(peer_id)) is not None:
            await asyncio.wait({leaving})  # dialling now would find the old connection good enough
        if peer_id in self._connected:
            return
        await self._dial(peer_id, self._known.get(peer_id, ()))
        if len(self._connected) >= MAX_KNOWN_PEERS:
            self._connected.clear()  # it only saves round trips
        self._connected.add(peer_id)

    async def hang_up(self, peer_id: str) -> None:
        """Close all connections to a peer; whoever wants it meanwhile dials it after that."""
        self._connected.discard(peer_id)
        if peer_id not in self._hanging_up:
            task = asyncio.ensure_future(self._hang_up(peer_id))
            self._hanging_up[peer_id] = task
            task.add_done_callback(lambda _: self._hanging_up.pop(peer_id))
        await asyncio.wait({self._hanging_up[peer_id]})

    def forget(self, peer_id: str) -> None:
        """It could not be used: the next one who wants it dials."""
        self._connected.discard(peer_id)

    def forget_all(self) -> None:
        self._connected.clear()
