"""Says how others reach this peer at this moment: where they can dial it, or through which relays.

Knows how reachability and relays go together, and neither of their ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.network.dial_addresses import Scope
from p2pnet.network.multiaddrs import FAMILIES, family_of
from p2pnet.network.reach.reachability import Reach, Reachability
from p2pnet.network.reach.relays import Relays

SETTLED_S = 10.0
"""How long a peer that starts waits until others can reach it. A dial back takes some round trips, a place at a relay
as many; but where packets are dropped a peer that dials back says so after 15 s only."""

GRACE_S = 0.7
"""In which a peer that can be dialled usually hears so. Then relays are asked, whatever comes of it later."""

POLL_S = 0.05


class OwnReach:
    """Of one peer. Relays are wanted while it is not known that others can dial it over IPv4: many have nothing else.
    Where they can, those who have IPv6 alone need one, unless it is known that they can dial it, too."""

    def __init__(
        self,
        peer_id: str,
        reachability: Reachability,
        relays: Relays,
        scope: Scope,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer_id = peer_id
        self._reachability = reachability
        self._relays = relays
        self._scope = scope
        self._pause = pause
        self._has_waited = False

    @property
    def reach(self) -> Reach:
        return self._reachability.reach

    @property
    def is_direct(self) -> bool:
        return self.reach is Reach.DIRECT

    def addresses(self, visible: Sequence[str]) -> tuple[str, ...]:
        """Full multiaddrs for others: those that are `visible` to p2pd, those where others have dialled us, and those
        through relays. On a public network a peer that can be reached somehow, and not over all families, names only
        what others can dial: they would try the rest first."""
        proven = tuple(f"{address}/p2p/{self._peer_id}" for address in self._reachability.addresses)
        relayed = self._relays.addresses()
        over = self._reachability.over
        known = set(map(over, FAMILIES))
        if self._scope is Scope.PUBLIC and Reach.HIDDEN in known and (relayed or Reach.DIRECT in known):
            visible = [address for address in visible if over(family_of(address)) is Reach.DIRECT]
        return tuple(dict.fromkeys((*visible, *proven, *relayed)))

    def note_changed(self) -> None:
        """Something was learnt, or a relay was won or lost."""
        lacking = self._reachability.over("ip6") if self.is_direct else self.reach
        self._relays.are_for_ip6 = self.is_direct
        self._relays.are_wanted = lacking is Reach.HIDDEN or (lacking is Reach.UNKNOWN and self._has_waited)

    def note_moved(self) -> None:
        """This machine has other addresses than before."""
        self._reachability.note_moved()

    def note_new_address(self) -> None:
        """There is one more at which it might be dialled."""
        self._reachability.note_new_address()

    async def run(self) -> None:
        """Keep it so until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reachability.run())
            tasks.create_task(self._relays.run())
            await self._pause(GRACE_S)
            self._has_waited = True
            self.note_changed()

    async def settled(self) -> bool:
        """Wait for a while until others can reach this peer; returns whether they can."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + SETTLED_S
        while not (self.is_direct or self._relays.held):
            if loop.time() > deadline_s:
                return False
            await asyncio.sleep(POLL_S)
        return True
