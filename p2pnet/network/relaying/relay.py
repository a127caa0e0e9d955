"""Serves as a relay (libp2p's circuit relay v2): gives places to peers that ask, and makes circuits to them.

Owns who has a place, which circuits there are, and their limits. Knows nothing of p2pd: it is handed streams, what
opens one over a connection that there is, and who is connected.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial

from p2pnet.config import RelayLimits
from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.network.inbound import InboundStream, InboundStreams
from p2pnet.network.interface import BareStream, Relayed
from p2pnet.network.libp2p.delimited import read_message, read_message_and_rest
from p2pnet.network.libp2p.relay import GrantedLimits
from p2pnet.network.libp2p.relay_service import (
    STOP_PROTOCOL,
    Status,
    circuit_granted,
    circuit_offered,
    is_taken,
    peer_asked_for,
    place_granted,
    status,
)
from p2pnet.network.multiaddrs import address_group, is_relayed
from p2pnet.network.relaying.circuit import PARTING_S, Circuit
from p2pnet.network.relaying.throttle import Throttle
from p2pnet.rate_limit import RateLimit

logger = logging.getLogger(__name__)

ASKING_S = 5.0
"""From the opened stream to the whole question."""

TAKING_S = 10.0
"""For the peer that is asked for to take a circuit: some round trips over a bad line."""

PLACE_S = 3600
"""How long a place is given for. It ends sooner with the connection to its peer."""

FRESH_S = 5.0
"""Who was given a place so lately may be missing among those that were found to be connected before that."""


@dataclass(frozen=True)
class _Place:
    given_s: float

    def stands(self, is_connected: bool, now_s: float) -> bool:
        age_s = now_s - self.given_s
        return age_s < (PLACE_S if is_connected else FRESH_S)


class Relay:
    """The relay of one peer. `may_relay` says whether it is one at this moment."""

    def __init__(
        self,
        limits: RelayLimits,
        open_stream: Callable[[str, str], Awaitable[BareStream]],
        addresses: Callable[[], tuple[str, ...]],
        may_relay: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._limits = limits
        self._granted = GrantedLimits(limits.duration_s, limits.data_bytes)
        self._open_stream = open_stream
        self._addresses = addresses
        self._may_relay = may_relay
        self._now_s = now_s
        self._unix_s = unix_s
        self._places: dict[str, _Place] = {}
        self._circuits: dict[Circuit, None] = {}
        self._bounds = InboundStreams(limits.max_circuits)
        self._to_peer: Counter[str] = Counter()
        self._from_group: Counter[str] = Counter()
        self._asked = RateLimit(limits.circuits_per_minute)
        self._throttle = Throttle(limits.bytes_per_s, limits.bytes_per_s_of_an_address, now_s)
        self._circuits_made = 0
        self._bytes = 0

    @property
    def relayed(self) -> Relayed:
        return Relayed(len(self._places), len(self._circuits), self._circuits_made, self._bytes)

    def look(self, connected: Collection[str]) -> None:
        """These peers are connected now. Who has gone has no place any more, and idle circuits end."""
        now_s = self._now_s()
        self._places = {peer: place for peer, place in self._places.items() if place.stands(peer in connected, now_s)}
        for circuit in list(self._circuits):
            if circuit.is_idle(now_s):
                circuit.end()

    async def serve(self, stream: BareStream) -> None:
        """Serve one stream of the hop protocol; it is closed afterwards."""
        try:
            async with asyncio.timeout(ASKING_S):
                message = await read_message(stream)
            if message is not None:
                await self._answer(stream, message)
        except (PeerLost, TimeoutError) as error:
            logger.debug("%s was not served as by a relay: %s", stream.peer_id, error)
        finally:
            stream.close()

    async def _answer(self, stream: BareStream, message: bytes) -> None:
        try:
            wanted = peer_asked_for(message)
        except ValueError:
            await self._say(stream, status(Status.MALFORMED_MESSAGE))
            return
        refusal = self._refusal(stream, wanted)
        if refusal is not None:
            await self._say(stream, status(refusal))
        elif wanted is None:
            await self._give_place(stream)
        else:
            await self._connect(stream, wanted)

    async def _say(self, stream: BareStream, answer: bytes) -> None:
        """Answer, and wait until the asker has read it, and says so by whatever it sends, or goes."""
        async with asyncio.timeout(PARTING_S):
            stream.stop_reading()
            await stream.write(answer)
            await stream.wait_unread()

    async def _give_place(self, stream: BareStream) -> None:
        self._places[stream.peer_id] = _Place(self._now_s())
        expires_s = int(self._unix_s()) + PLACE_S
        load_percent = 100 * len(self._circuits) // self._limits.max_circuits
        await self._say(stream, place_granted(expires_s, self._addresses(), self._granted, load_percent))

    def _refusal(self, stream: BareStream, wanted: str | None) -> Status | None:
        """Why a place is not given, or a circuit not made."""
        if not self._may_relay() or is_relayed(stream.address):
            return Status.PERMISSION_DENIED
        if wanted is None:
            return None
        group, now_s = address_group(stream.address), self._now_s()
        if self._asked.is_spent(group, now_s) or self._from_group[group] >= self._limits.max_circuits_from_an_address:
            return Status.RESOURCE_LIMIT_EXCEEDED
        self._asked.spend(group, now_s)
        if wanted not in self._places or wanted == stream.peer_id:
            return Status.NO_RESERVATION
        return Status.RESOURCE_LIMIT_EXCEEDED if self._to_peer[wanted] >= self._limits.max_circuits_to_a_peer else None

    async def _connect(self, asker: BareStream, wanted: str) -> None:
        """Make a circuit, and carry what it carries until it ends."""
        group = address_group(asker.address)
        self._from_group[group] += 1
        self._to_peer[wanted] += 1
        try:
            try:
                taker, first = await self._offered(asker.peer_id, wanted)
            except (PeerLost, PeerUnreachable, TimeoutError) as error:
                logger.debug("%s took no circuit of %s: %s", wanted, asker.peer_id, error)
                await self._say(asker, status(Status.CONNECTION_FAILED))
                return
            try:
                await self._carry(asker, taker, first, group)
            finally:
                taker.close()
        finally:
            _decrease(self._from_group, group)
            _decrease(self._to_peer, wanted)

    async def _offered(self, asker_id: str, wanted: str) -> tuple[BareStream, bytes]:
        """The stream of the peer that has taken a circuit, and what it has said already. Raises PeerUnreachable,
        PeerLost, TimeoutError."""
        async with asyncio.timeout(TAKING_S):
            taker = await self._open_stream(wanted, STOP_PROTOCOL)
            try:
                await taker.write(circuit_offered(asker_id, self._granted))
                answer = await read_message_and_rest(taker)
                if answer is None or not is_taken(answer[0]):
                    raise PeerLost("it does not take it")
            except BaseException:
                taker.close()
                raise
        return taker, answer[1]

    async def _carry(self, asker: BareStream, taker: BareStream, first: bytes, group: str) -> None:
        circuit = Circuit(asker, taker, self._limits.data_bytes, partial(self._throttle.take, group), self._count)
        entry = InboundStream(asker.peer_id, group, circuit.end)
        self._circuits[circuit] = None
        self._circuits_made += 1
        try:
            await asker.write(circuit_granted(self._granted))
            self._bounds.enter(entry)  # when there are too many, one ends: it may be this one
            await circuit.run(first, self._limits.duration_s)
        finally:
            self._bounds.leave(entry)
            del self._circuits[circuit]

    def _count(self, amount: int) -> None:
        self._bytes += amount


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]
