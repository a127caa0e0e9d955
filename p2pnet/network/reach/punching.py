"""Punches holes: two peers that are connected through a relay dial one another at the same time, over QUIC, so that
each one's router takes the other's packets for answers.

p2pd does so too, but only after four peers have told it its address, and never before the first stream. It has one
weakness that shapes this: it does not dial a peer that it is connected to, so the relayed connection is given up first.
So this is done before a connection is of use to anybody, and what came of it is remembered. Knows nothing of p2pd.
https://github.com/libp2p/specs/blob/master/relay/DCUtR.md
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from p2pnet.errors import P2PNetError
from p2pnet.network.dial_addresses import Scope, may_dial, place_of, scope_of_host
from p2pnet.network.interface import BareStream, Stream
from p2pnet.network.libp2p.delimited import read_message
from p2pnet.network.libp2p.hole_punch import addresses_in, connect, is_sync, sync
from p2pnet.network.multiaddrs import are_all_relayed, is_relayed
from p2pnet.network.reach.candidates import Candidates, is_plain
from p2pnet.rate_limit import RateLimit

logger = logging.getLogger(__name__)

PUNCH_PROTOCOL = "/p2pnet/punch/1"

DIAL_S = 1.0
"""Both ends send at the same time, so that the first packets pass; a handshake around the world takes half of this, and
again when a packet is lost. Nobody wants to wait longer for his first token."""

APART_S = 0.05
"""From hanging up to dialling: who dials at once has his new connection hung up on by the other end, which is just
about to hang up the old one."""

LOOK_S = 0.05
"""How often it is looked whether the other end has come through."""

ATTEMPT_S = 5.0
"""For the whole of it: a connection through a relay, two round trips through it, and that dial."""

WAIT_S = 2.0
"""How long a stream to a peer waits for it: where the relay is far, it goes on as before."""

SOON_S = 2.0
"""Before it is tried again where nothing was tried, or it is not known yet that it has worked."""

FIRST_PAUSE_S = 60.0
MAX_PAUSE_S = 3600.0
"""Before it is tried again with a peer where it did not work; twice as long each time. It costs the relayed connection,
and routers do not change."""

MAX_REMEMBERED = 4096
"""Peers."""

ANSWERED_PER_MINUTE = 60.0
"""Of those who ask us: each has us dial up to eight addresses."""

_ALL = "all"


class Ground(Protocol):
    """What this peer's network does for it."""

    async def open_toward(self, peer_id: str, protocol: str, addresses: Sequence[str]) -> Stream:
        """Open a stream to a peer that is at these full multiaddrs now, over a connection that there is or a new one.
        Raises PeerUnreachable."""

    async def hang_up_for_now(self, peer_id: str) -> None:
        """Drop what connections there are, to dial it anew. Never raises."""

    async def dial_at(self, peer_id: str, addresses: Sequence[str]) -> None:
        """Connect to a peer at these full multiaddrs. Raises OSError or TimeoutError."""

    async def is_direct(self, peer_id: str) -> bool:
        """Whether there is a connection to it that no relay carries. Raises OSError."""

    def is_in_use(self, peer_id: str, besides: Stream | None = None) -> bool:
        """Whether streams to or from it would be lost with the connection."""

    async def candidates(self) -> Candidates:
        """Where this peer may be dialled. Raises OSError."""


@dataclass
class _Tried:
    again_s: float
    pause_s: float = 0.0


FAILURES = (P2PNetError, OSError, TimeoutError, EOFError, ValueError)
"""What may come of asking a stranger."""


class Puncher:
    """Of one peer, for both ends. `is_direct` says whether a peer was connected without a relay a moment ago; None when
    it was not connected. One that names other addresses beside its relays may be dialled there: a hole is punched once
    that has not helped."""

    def __init__(
        self,
        ground: Ground,
        scope: Scope,
        is_direct: Callable[[str], bool | None],
        now_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ground = ground
        self._scope = scope
        self._is_direct = is_direct
        self._now_s = now_s
        self._pause = pause
        self._tried: dict[str, _Tried] = {}
        self._punching: dict[str, asyncio.Task[None]] = {}
        self._answered = RateLimit(ANSWERED_PER_MINUTE)

    def note_moved(self) -> None:
        """This machine is in another network: what was tried says nothing any more."""
        self._tried.clear()

    async def stop(self) -> None:
        tasks = list(self._punching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def before_stream(self, peer_id: str, addresses: Sequence[str]) -> None:
        """A stream to a peer is wanted: when it is reached through relays alone, try to do without, and wait for that
        for a moment. Never raises."""
        if not self.is_due(peer_id, addresses):
            return
        if (punching := self._punching.get(peer_id)) is None:
            punching = self._punching[peer_id] = asyncio.create_task(self._punch(peer_id, addresses))
            punching.add_done_callback(lambda _: self._punching.pop(peer_id))
        await asyncio.wait({punching}, timeout=WAIT_S)

    def is_due(self, peer_id: str, addresses: Sequence[str]) -> bool:
        """Whether it is to be tried, or tried already, when a stream to this peer is wanted now."""
        if peer_id in self._punching:
            return True
        tried = self._tried.get(peer_id)
        is_early = tried is not None and self._now_s() < tried.again_s
        if is_early or self._is_direct(peer_id):
            return False
        return are_all_relayed(addresses) or (any(map(is_relayed, addresses)) and self._is_direct(peer_id) is False)

    async def _punch(self, peer_id: str, addresses: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(ATTEMPT_S):
                has_tried = await self._try(peer_id, addresses)
                if not has_tried or await self._ground.is_direct(peer_id):
                    return self._note(peer_id, SOON_S)
        except FAILURES as error:
            logger.debug("no hole to %s: %s", peer_id, error)
        before = self._tried.get(peer_id)
        pause_s = FIRST_PAUSE_S if before is None or not before.pause_s else min(MAX_PAUSE_S, 2 * before.pause_s)
        return self._note(peer_id, pause_s, pause_s)

    async def _try(self, peer_id: str, addresses: Sequence[str]) -> bool:
        """Whether anything was tried."""
        own = await self._ground.candidates()
        if self._ground.is_in_use(peer_id):
            return False
        try:
            stream = await self._ground.open_toward(peer_id, PUNCH_PROTOCOL, addresses)
        except P2PNetError:
            return False  # it is not there, or is older than this
        try:
            if await self._ground.is_direct(peer_id):
                return False
            began_s = self._now_s()
            await stream.write(connect(own.addresses))
            theirs = fitting(peer_id, addresses_in(await read_message(stream) or b""), own, self._scope)
            round_trip_s = self._now_s() - began_s
            if self._ground.is_in_use(peer_id, besides=stream):
                return False
            await stream.write(sync())
            await self._pause(round_trip_s / 2)  # then the other end has read it
        finally:
            stream.close()
        await self._dial(peer_id, theirs)
        return True

    async def serve(self, stream: BareStream) -> None:
        """The other end of it. The stream is closed afterwards."""
        peer_id, now_s = stream.peer_id, self._now_s()
        try:
            if not is_relayed(stream.address) or self._answered.is_spent(_ALL, now_s):
                return
            self._answered.spend(_ALL, now_s)
            async with asyncio.timeout(ATTEMPT_S):
                own = await self._ground.candidates()
                theirs = fitting(peer_id, addresses_in(await read_message(stream) or b""), own, self._scope)
                if self._ground.is_in_use(peer_id, besides=stream):
                    return
                await stream.write(connect(own.addresses))
                if not is_sync(await read_message(stream) or b""):
                    return
                stream.close()
                await self._dial(peer_id, theirs)
        except FAILURES as error:
            logger.debug("no hole to %s, which has asked for one: %s", peer_id, error)
        finally:
            stream.close()

    async def _dial(self, peer_id: str, addresses: Sequence[str]) -> None:
        """Until there is a direct connection, whoever has dialled it, or none has come for a while."""
        if not await self._ground.is_direct(peer_id):
            await self._ground.hang_up_for_now(peer_id)
            await self._pause(APART_S)
        dialling = asyncio.create_task(self._ground.dial_at(peer_id, addresses))
        ends_s = self._now_s() + DIAL_S
        try:
            while self._now_s() < ends_s and not await self._ground.is_direct(peer_id):
                await self._pause(LOOK_S)
        finally:
            dialling.cancel()
            await asyncio.gather(dialling, return_exceptions=True)

    def _note(self, peer_id: str, again_s: float, pause_s: float = 0.0) -> None:
        self._tried.pop(peer_id, None)
        self._tried[peer_id] = _Tried(self._now_s() + again_s, pause_s)
        if len(self._tried) > MAX_REMEMBERED:
            del self._tried[next(iter(self._tried))]


def fitting(peer_id: str, named: Iterable[str], own: Candidates, scope: Scope) -> list[str]:
    """Where a peer is dialled, of the addresses that it names: as full multiaddrs. Raises ValueError when that is
    nowhere. A private address is dialled when both are seen at the same public one: it may be in the same house."""
    full = [f"{address}/p2p/{peer_id}" for address in named if is_plain(address)]
    hosts = {place.host for address in full if (place := place_of(address)) is not None}
    is_near = not hosts.isdisjoint(own.hosts)
    found = [address for address in full if may_dial(address, scope) or (is_near and _is_private(address))]
    if not found:
        raise ValueError("it names nothing that may be dialled from here")
    return found


def _is_private(address: str) -> bool:
    place = place_of(address)
    return place is not None and scope_of_host(place.host) is Scope.PRIVATE
