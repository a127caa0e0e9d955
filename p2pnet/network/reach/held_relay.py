"""Holds a place at one relay for as long as it runs, and notices within seconds when it is gone.

p2pd's own search for relays leaves one alone for an hour after it was lost, and does not see that a router has
forgotten a connection. Knows nothing of p2pd: it is handed what opens streams, hangs up and knocks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.interface import Stream
from p2pnet.network.libp2p.ping import PING_PROTOCOL, ping
from p2pnet.network.libp2p.relay import HOP_PROTOCOL, Reservation, reserve

logger = logging.getLogger(__name__)

SETUP_S = 8.0
"""To be connected to a relay and to be given a place: some round trips around the world."""

PING_S = 2.0
PING_TIMEOUT_S = 3.0
"""A router that has forgotten us says nothing, and neither does a line that is gone; p2pd itself waits for half a
minute or longer. A ping over an open stream costs a relay some 50 microseconds."""

RENEW_S = 600.0
"""A relay gives a place for an hour."""

FIRST_PAUSE_S = 0.3
MAX_PAUSE_S = 2.0
"""Before a relay that is gone is knocked at again: it is found soon after it is back."""

FIRST_REFUSED_PAUSE_S = 2.0
MAX_REFUSED_PAUSE_S = 60.0
"""Before one that is there and gives no place is asked again: it doubles each time."""


class Refused(Exception):
    """The relay gives us no place."""


LOST = (PeerLost, PeerUnreachable, OSError, TimeoutError)
"""What asking a relay raises when it is not there."""


class Ways(Protocol):
    """How this peer reaches others."""

    async def open_raw(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """A stream of one of libp2p's own protocols. Raises PeerUnreachable."""

    async def hang_up(self, peer_id: str) -> None:
        """Drop what connections there are: the next stream dials anew."""

    async def knock(self, addresses: Sequence[str]) -> bool:
        """Whether somebody answers at any of these addresses."""


@dataclass(frozen=True)
class Candidate:
    """A peer that may relay, and full multiaddrs at which it can be dialled."""

    peer_id: str
    addresses: tuple[str, ...]


class HeldRelay:
    """One relay, which is asked for a place and held to it by `run`."""

    def __init__(
        self,
        candidate: Candidate,
        ways: Ways,
        changed: Callable[[], None] = lambda: None,
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        ping_timeout_s: float = PING_TIMEOUT_S,
    ) -> None:
        self._ping_timeout_s = ping_timeout_s
        self.candidate = candidate
        self._ways = ways
        self._changed = changed
        self._now_s = now_s
        self._pause = pause
        self.reservation: Reservation | None = None
        """The place that it gives us now."""
        self.round_trip_s: float | None = None
        self.is_refused = False
        """Whether it was there when it was asked last, and gave no place."""
        self.lost_s: float | None = now_s()
        """Since when there is no place; None while there is one."""

    async def run(self) -> None:
        """Until it is cancelled."""
        pause_s, refused_pause_s = FIRST_PAUSE_S, FIRST_REFUSED_PAUSE_S
        while True:
            try:
                await self._hold()
            except Refused:
                self.is_refused = True
                logger.debug("%s gives us no place", self.candidate.peer_id)
            except LOST as error:
                logger.debug("no place at %s: %s", self.candidate.peer_id, error)
            except Exception:  # whatever it was: a place that nobody holds any more must not be announced
                logger.exception("holding a place at %s was interrupted", self.candidate.peer_id)
            if self._note_lost():
                logger.info("the relay %s is lost; looking for it", self.candidate.peer_id)
                pause_s, refused_pause_s = FIRST_PAUSE_S, FIRST_REFUSED_PAUSE_S
            if self.is_refused:
                await self._pause(refused_pause_s)
                refused_pause_s = min(MAX_REFUSED_PAUSE_S, 2 * refused_pause_s)
            else:
                await self._pause(pause_s)
                pause_s = min(MAX_PAUSE_S, 2 * pause_s)
            while not await self._ways.knock(self.candidate.addresses):
                await self._pause(pause_s)
                pause_s = min(MAX_PAUSE_S, 2 * pause_s)

    async def _hold(self) -> None:
        """Take a place, and come back when it is lost. Raises Refused, or one of LOST."""
        relay = self.candidate.peer_id
        reservation = await self._reserved()
        pings = await self._ways.open_raw(relay, PING_PROTOCOL)
        try:
            renewed_s = self._now_s()
            while True:
                await self._ping(pings)
                if self.reservation is None:
                    logger.info("a place at the relay %s, %.0f ms away", relay, 1000 * (self.round_trip_s or 0.0))
                self._note_held(reservation)
                await self._pause(PING_S)
                if self._now_s() - renewed_s >= RENEW_S:
                    reservation, renewed_s = await self._reserved(), self._now_s()
        finally:
            pings.close()

    async def _reserved(self) -> Reservation:
        async with asyncio.timeout(SETUP_S):
            stream = await self._ways.open_raw(self.candidate.peer_id, HOP_PROTOCOL, self.candidate.addresses)
            try:
                reservation = await reserve(stream)
            finally:
                stream.close()
        if reservation is None:
            raise Refused
        return reservation

    async def _ping(self, pings: Stream) -> None:
        began_s = self._now_s()
        try:
            async with asyncio.timeout(self._ping_timeout_s):
                await ping(pings)
        except TimeoutError:  # it passes for connected: nothing would come of a new stream, either
            await self._ways.hang_up(self.candidate.peer_id)
            raise
        took_s = self._now_s() - began_s
        self.round_trip_s = took_s if self.round_trip_s is None else 0.7 * self.round_trip_s + 0.3 * took_s

    def _note_held(self, reservation: Reservation) -> None:
        self.is_refused = False
        self.lost_s = None
        if self.reservation != reservation:
            self.reservation = reservation
            self._changed()

    def _note_lost(self) -> bool:
        """Whether there was a place."""
        if self.reservation is None:
            return False
        self.reservation, self.lost_s = None, self._now_s()
        self._changed()
        return True
