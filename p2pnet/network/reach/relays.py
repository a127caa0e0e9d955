"""Chooses relays for a peer that nobody can dial, and keeps places at two of them; at one, where only those cannot
that have IPv6 alone.

Any peer may relay, so those are asked that it joined through and those that it knows as nodes of the DHT, and the
nearest stay. When one is lost another one is asked at once, while the first is still looked for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.flow.background import kept_up
from p2pnet.network.dial_addresses import Scope, may_dial
from p2pnet.network.libp2p.relay import Reservation
from p2pnet.network.multiaddrs import family_of, is_relayed, without_peer_id
from p2pnet.network.reach.held_relay import Candidate, HeldRelay, Ways

PLACES = 2
"""While one relay is replaced there is another one."""

PLACES_FOR_IP6 = 1
"""Where others dial this peer over IPv4 few need a relay, and everybody reads what a record names."""

ASKED_AT_ONCE = 4
"""Candidates that are asked while there are too few places: the nearest of them stay."""

GIVEN_UP_S = 20.0
"""A relay that has not been there for so long makes room for another candidate, and one that refuses does so at once.
They may be asked again later."""

RESTING_S = 60.0
"""Who was left alone is asked again after this."""

LOOK_S = 0.5

ENOUGH_BYTES = 1 << 30
"""A relay that cuts circuits sooner is taken only where there is no other: libp2p's own defaults cut at 128 KiB."""


BUSY_PERCENT = 75
"""A relay with so much of it in use is taken only where the others are no less busy."""


class Relays:
    """The relays of one peer, looked after by `run`."""

    def __init__(
        self,
        peer_id: str,
        candidates: Callable[[], Sequence[Candidate]],
        ways: Ways,
        scope: Scope,
        changed: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer_id = peer_id
        self._candidates = candidates
        self._ways = ways
        self._scope = scope
        self._changed = changed
        self._now_s = now_s
        self._pause = pause
        self._asked: dict[HeldRelay, asyncio.Task[None]] = {}
        self._resting_until_s: dict[str, float] = {}
        self.are_wanted = False
        """Whether there are to be any. Where not, those that there are are left."""
        self.are_for_ip6 = False
        """Whether they are for those alone that cannot dial IPv4: who cannot be dialled over IPv6 is of no use then."""

    @property
    def held(self) -> list[HeldRelay]:
        """Those where there is a place, best first."""
        return sorted((relay for relay in self._asked if relay.reservation is not None), key=_worth)

    def addresses(self) -> tuple[str, ...]:
        """Full multiaddrs at which others reach this peer through them, best relay first."""
        return tuple(
            f"{address}/p2p-circuit/p2p/{self._peer_id}" for relay in self.held for address in self._addresses_of(relay)
        )

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                self.look()
                await self._pause(LOOK_S)
        finally:
            await self.stop()

    async def stop(self) -> None:
        tasks = list(self._asked.values())
        self._asked.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def look(self) -> None:
        """Ask more of them, or leave some alone."""
        now_s = self._now_s()
        if not self.are_wanted:
            self._leave(list(self._asked))
            return
        self._leave([relay for relay in self.held if not self._addresses_of(relay)])
        held, places = self.held, PLACES_FOR_IP6 if self.are_for_ip6 else PLACES
        others = [relay for relay in self._asked if relay not in held]
        if len(held) >= places:
            # Those that are lost, or were never had, have been replaced.
            self._leave([*held[places:], *others])
            return
        fresh = self._fresh(now_s)
        useless = [each for each in others if each.is_refused or now_s - (each.lost_s or now_s) > GIVEN_UP_S]
        self._leave(useless[: len(fresh)])
        for candidate in fresh[: max(0, ASKED_AT_ONCE - len(self._asked))]:
            relay = HeldRelay(candidate, self._ways, self._changed, self._now_s, self._pause)
            holding = kept_up(f"holding a place at {candidate.peer_id}", relay.run, self._pause)
            self._asked[relay] = asyncio.create_task(holding)

    def _fresh(self, now_s: float) -> list[Candidate]:
        """Candidates that are not asked now, nor resting."""
        asked = {relay.candidate.peer_id for relay in self._asked}
        return [
            candidate
            for candidate in self._candidates()
            if candidate.peer_id not in asked
            and candidate.peer_id != self._peer_id
            and now_s >= self._resting_until_s.get(candidate.peer_id, now_s)
            and any(map(self._is_of_use, candidate.addresses))
        ]

    def _leave(self, relays: Sequence[HeldRelay]) -> None:
        now_s = self._now_s()
        self._resting_until_s = {peer: until_s for peer, until_s in self._resting_until_s.items() if until_s > now_s}
        for relay in relays:
            self._asked.pop(relay).cancel()
            self._resting_until_s[relay.candidate.peer_id] = now_s + RESTING_S
        if any(relay.reservation is not None for relay in relays):
            self._changed()

    def _addresses_of(self, relay: HeldRelay) -> list[str]:
        """Where others dial the relay: as it says itself, as far as anybody may dial that; or else where we do."""
        claimed = relay.reservation.addresses if relay.reservation is not None else ()
        peer_id = relay.candidate.peer_id
        full = [address if address.endswith(f"/p2p/{peer_id}") else f"{address}/p2p/{peer_id}" for address in claimed]
        fitting = [address for address in full if not is_relayed(address) and may_dial(address, self._scope)]
        known = [address for address in relay.candidate.addresses if not is_relayed(address)]
        return one_of_each([address for address in fitting or known if self._is_of_use(address)])

    def _is_of_use(self, address: str) -> bool:
        """Whether those who need a relay can dial one there."""
        return not self.are_for_ip6 or family_of(address) == "ip6"


def one_of_each(addresses: Sequence[str]) -> list[str]:
    """The first for each family and transport. IPv4 is first, which all have; and of each family QUIC, which needs
    fewer round trips, and holes are punched with it."""
    first: dict[tuple[bool, bool], str] = {}
    for address in addresses:
        first.setdefault((family_of(address) == "ip6", "/udp/" not in without_peer_id(address)), address)
    return [first[kind] for kind in sorted(first)]


def _worth(relay: HeldRelay) -> tuple[bool, bool, float]:
    """The less the better."""
    is_busy = relay.reservation is not None and relay.reservation.load_percent >= BUSY_PERCENT
    return not _is_generous(relay.reservation), is_busy, relay.round_trip_s or 0.0


def _is_generous(reservation: Reservation | None) -> bool:
    data_bytes = None if reservation is None else reservation.limits.data_bytes
    return data_bytes is None or data_bytes >= ENOUGH_BYTES
