"""Learns whether others can dial this peer, by asking some of them to (libp2p's AutoNAT).

What one says is its word alone: two have to agree, where there are two. IPv4 and IPv6 are two questions: a router
that hides a house from the one may let in the other, and whoever dials us may have but one of them. Knows nothing of
relays.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from p2pnet.network.libp2p.autonat import DialBack
from p2pnet.network.multiaddrs import FAMILIES
from p2pnet.network.reach.sight import Sight

logger = logging.getLogger(__name__)

ASKED = 3
"""Peers asked at a time, which all have to be believed wrong when two agree."""

AGREEING = 2

AGAIN_S = 300.0
"""How often it is asked while nothing has changed. A p2pd dials back 3 times a minute for one peer, 30 for all."""

UNKNOWN_AGAIN_S = 20.0
"""While nobody has tried over IPv4; twice as long each time, up to the former: a machine without it is never told."""

HASTE_S = 5.0
"""But no oftener than this, whatever changes."""


class Reach(Enum):
    """Whether others can dial this peer."""

    UNKNOWN = "unknown"
    DIRECT = "direct"
    HIDDEN = "behind NAT"


SAYS = {
    Reach.UNKNOWN: "it is not known whether others can dial this peer over %s: asking them",
    Reach.DIRECT: "others can dial this peer over %s",
    Reach.HIDDEN: "others cannot dial this peer over %s",
}

Look = Callable[[str], Awaitable[Sight]]
"""Ask one peer how it sees us. Never raises."""


def judge(sights: Sequence[Sight]) -> tuple[Reach, tuple[str, ...]]:
    """Whether others can dial us, and the addresses at which enough of them have: full multiaddrs without our id."""
    outcomes = [sight.outcome for sight in sights if sight.outcome is not DialBack.NOT_TRIED]
    needed = min(AGREEING, len(outcomes))
    if not needed:
        return Reach.UNKNOWN, ()
    if outcomes.count(DialBack.REACHED) >= needed:
        reached = [
            address
            for sight in sights
            for tried in sight.tried
            if tried.outcome is DialBack.REACHED
            for address in tried.addresses
        ]
        return Reach.DIRECT, tuple(dict.fromkeys(reached))
    return (Reach.HIDDEN if outcomes.count(DialBack.NOT_REACHED) >= needed else Reach.UNKNOWN), ()


class Reachability:
    """What is known of it. `fixed` is what the user has said, who is not doubted."""

    def __init__(
        self,
        look: Look,
        peers: Callable[[], Sequence[str]],
        changed: Callable[[], None],
        fixed: Reach | None = None,
        rng: random.Random | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._look = look
        self._peers = peers
        self._changed = changed
        self._is_fixed = fixed is not None
        self._pause = pause
        self._rng = rng or random.Random()
        self._doubted = asyncio.Event()
        self._over = dict.fromkeys(FAMILIES, fixed or Reach.UNKNOWN)
        self._dialled: dict[str, tuple[str, ...]] = dict.fromkeys(FAMILIES, ())

    @property
    def reach(self) -> Reach:
        """Whether everybody can dial it: over IPv4, over which all others dial out."""
        return self._over["ip4"]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others have dialled us, without our id."""
        return tuple(address for family in FAMILIES for address in self._dialled[family])

    def over(self, family: str) -> Reach:
        """Whether others can dial it so."""
        return self._over.get(family, Reach.UNKNOWN)

    def note_moved(self) -> None:
        """This machine has other addresses than before: nothing is known of them, until others have been asked."""
        if self._is_fixed:
            return
        for family in FAMILIES:
            self._note(family, Reach.UNKNOWN, ())
        self._doubted.set()

    def note_new_address(self) -> None:
        """It may be dialled where it could not be before: a router has mapped a port. Others are asked anew, and what
        they are just asked about is out of date."""
        self._doubted.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        unknown_s = UNKNOWN_AGAIN_S
        while not self._is_fixed:
            await self._ask_until_doubted()
            pause_s = unknown_s if self.reach is Reach.UNKNOWN else AGAIN_S
            await self._pause(HASTE_S)
            if await self._is_doubted_within(pause_s - HASTE_S):
                unknown_s = UNKNOWN_AGAIN_S
            else:
                unknown_s = min(AGAIN_S, 2 * unknown_s)
        await asyncio.Event().wait()

    async def _is_doubted_within(self, seconds: float) -> bool:
        waiting = asyncio.ensure_future(self._doubted.wait())
        pausing = asyncio.ensure_future(self._pause(seconds))
        try:
            await asyncio.wait({waiting, pausing}, return_when=asyncio.FIRST_COMPLETED)
            return self._doubted.is_set()
        finally:
            waiting.cancel()
            pausing.cancel()

    async def _ask_until_doubted(self) -> None:
        self._doubted.clear()
        asking, doubting = asyncio.create_task(self.ask()), asyncio.create_task(self._doubted.wait())
        try:
            await asyncio.wait({asking, doubting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            doubting.cancel()
            if not asking.done():
                asking.cancel()
        await asyncio.gather(doubting, return_exceptions=True)
        if asking.done() and not asking.cancelled():
            asking.result()

    async def ask(self) -> None:
        """Ask some peers, and believe what enough of them say. Nobody's word changes nothing."""
        peers = list(dict.fromkeys(self._peers()))
        chosen = self._rng.sample(peers, min(ASKED, len(peers)))
        looking = [asyncio.ensure_future(self._look(peer)) for peer in chosen]
        sights: list[Sight] = []
        try:
            for coming in asyncio.as_completed(looking):
                sights.append(await coming)
                for family in FAMILIES:
                    seen = [sight for sight in sights if sight.family == family]
                    reach, addresses = judge(seen)
                    agreeing = sum(sight.outcome is DialBack.REACHED for sight in seen)
                    if reach is not Reach.UNKNOWN and (len(sights) == len(chosen) or agreeing >= AGREEING):
                        self._note(family, reach, addresses)
        finally:
            for each in looking:
                each.cancel()

    def _note(self, family: str, reach: Reach, addresses: tuple[str, ...]) -> None:
        if (reach, addresses) == (self._over[family], self._dialled[family]):
            return
        if reach is not self._over[family]:
            logger.info(SAYS[reach], FAMILIES[family])
        self._over[family], self._dialled[family] = reach, addresses
        self._changed()
