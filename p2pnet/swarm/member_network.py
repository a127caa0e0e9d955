"""The network as a member of a private swarm has it: only what members store is found, and only members are spoken to.

Wraps another Network, so that workers, gateways and the directory need not know. The DHT, relays, and libp2p's own
protocols stay those of everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from p2pnet.errors import NotAMember, P2PNetError, PeerLost
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.clock_watch import ClockState
from p2pnet.network.interface import (
    Clock,
    Entry,
    Findings,
    Meeting,
    Network,
    Relayed,
    StoredValue,
    Stream,
    StreamHandler,
    Validator,
    key_id,
)
from p2pnet.swarm.hello import REFUSAL, Greeted, Greeter
from p2pnet.swarm.member_stream import MemberStream
from p2pnet.swarm.membership import Membership, OwnCertificate
from p2pnet.swarm.register import Register
from p2pnet.swarm.secret import SwarmSecret
from p2pnet.swarm.upkeep import Upkeep
from p2pnet.swarm.values import MemberValue, MemberValues

logger = logging.getLogger(__name__)

SWARM_PROTOCOL = "/p2pnet/swarm/1"
"""Of all streams between members of whichever swarm: libp2p tells everybody which protocols a peer serves."""

HELLO_S = 10.0
"""For both hellos: two round trips around the world, over a relay, after a lost packet."""


class MemberNetwork:
    """See `interface.Network`. Make one with `start`."""

    def __init__(
        self,
        inner: Network,
        identity: Identity,
        membership: Membership,
        is_acceptable: Validator,
        now_ms: Clock,
    ) -> None:
        self._inner = inner
        self._is_acceptable = is_acceptable
        invitation = membership.invitation
        self._register = Register(invitation.swarm_id, now_ms)
        secret = SwarmSecret(invitation.secret)
        certificate = OwnCertificate(membership, identity.peer_id)
        self._values = MemberValues(inner, identity, certificate, secret, self._register, now_ms)
        self._greeter = Greeter(identity.peer_id, certificate, secret, self._register)
        self._handlers: dict[str, StreamHandler] = {}
        self._streams: set[MemberStream] = set()
        self.upkeep = Upkeep(
            self._values, self._register, membership.kept_list, certificate, now_ms, self._cut_strangers
        )
        self._background = Background()

    @classmethod
    async def start(
        cls,
        inner: Network,
        identity: Identity,
        membership: Membership,
        is_acceptable: Validator,
        now_ms: Clock,
    ) -> MemberNetwork:
        """Learn what is revoked, and go on learning it. `is_acceptable` decides what members may say to one another, as
        it does for everybody on the public network."""
        self = cls(inner, identity, membership, is_acceptable, now_ms)
        await self.upkeep.look()
        self._background.keep("looking after the swarm", self.upkeep.run)
        return self

    async def members(self) -> list[MemberValue]:
        """Who has said lately to be here, one value of each."""
        return await self.upkeep.members()

    async def handle(self, protocol: str, handler: StreamHandler) -> None:
        is_first = not self._handlers
        self._handlers[protocol] = handler
        if is_first:
            await self._inner.handle(SWARM_PROTOCOL, self._serve)

    async def open_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        """Raises NotAllowed or ProtocolViolation, too, when one end does not take the other for a member."""
        inner = await self._inner.open_stream(peer_id, SWARM_PROTOCOL, addresses)
        try:
            async with asyncio.timeout(HELLO_S):
                greeted = await self._greeter.open(inner, protocol)
        except TimeoutError as error:
            inner.close()
            raise PeerLost(f"the peer did not say hello within {HELLO_S:.0f} s") from error
        except BaseException:
            inner.close()
            raise
        return self._tracked(inner, greeted)

    async def store(self, entries: Sequence[Entry]) -> int:
        return await self._values.put(entries)

    async def fetch(self, keys: Sequence[str]) -> Findings:
        found = await self._values.get(keys)
        return {key: [each for value in found[key] if self._is_acceptable(each := _stored(key, value))] for key in keys}

    def held(self, key: str) -> int:
        """Strangers cannot tell which keys these are: what lies there is of members."""
        return self._inner.held(self._values.name_of(key))

    async def close(self) -> None:
        await self._background.stop()
        await self._inner.close()

    async def _serve(self, inner: Stream) -> None:
        """One inbound stream, whoever opened it."""
        try:
            async with asyncio.timeout(HELLO_S):
                greeted = await self._greeter.accept(inner)
                handler = self._handlers.get(greeted.hello.protocol)
                if handler is None:
                    raise NotAMember(f"it asks for {greeted.hello.protocol}, which is not served")
                await self._greeter.welcome(inner)
        except (P2PNetError, TimeoutError) as error:
            logger.debug("a stream of %s is refused: %s", inner.peer_id, error)
            with contextlib.suppress(PeerLost, TimeoutError):
                async with asyncio.timeout(HELLO_S):
                    await inner.write(REFUSAL)
            return
        stream = self._tracked(inner, greeted)
        try:
            await handler(stream)
        finally:
            self._streams.discard(stream)

    def _tracked(self, inner: Stream, greeted: Greeted) -> MemberStream:
        certificate, cut = greeted.hello.certificate, self._cut_unless_member
        stream = MemberStream(inner, certificate, greeted.ahead, self._streams.discard, on_use=cut)
        self._streams.add(stream)
        cut(stream)  # it may have been revoked while the hellos were under way
        return stream

    def _cut_strangers(self) -> None:
        """End the streams of those who are members no more."""
        for stream in list(self._streams):
            self._cut_unless_member(stream)

    def _cut_unless_member(self, stream: MemberStream) -> None:
        if not self._register.has(stream.certificate, stream.peer_id):
            logger.info("a stream is cut: %s is no member of the swarm any more", stream.peer_id)
            self._streams.discard(stream)
            stream.cut()

    # What is the same for members and everybody.

    @property
    def peer_id(self) -> str:
        return self._inner.peer_id

    @property
    def neighbours(self) -> int:
        return self._inner.neighbours

    @property
    def open_streams(self) -> int:
        return self._inner.open_streams

    @property
    def is_direct(self) -> bool:
        return self._inner.is_direct

    @property
    def relayed(self) -> Relayed:
        return self._inner.relayed

    @property
    def clock(self) -> ClockState:
        return self._inner.clock

    def wants_new_stream(self, peer_id: str, addresses: Sequence[str]) -> bool:
        return self._inner.wants_new_stream(peer_id, addresses)

    def is_direct_to(self, peer_id: str) -> bool | None:
        return self._inner.is_direct_to(peer_id)

    async def meet(self, address: str) -> Meeting:
        return await self._inner.meet(address)

    async def addresses(self) -> tuple[str, ...]:
        return await self._inner.addresses()

    async def record_addresses(self) -> tuple[str, ...]:
        return await self._inner.record_addresses()

    async def open_raw_stream(self, peer_id: str, protocol: str, addresses: Sequence[str] = ()) -> Stream:
        return await self._inner.open_raw_stream(peer_id, protocol, addresses)

    async def hang_up(self, peer_id: str) -> None:
        await self._inner.hang_up(peer_id)

    async def wait_changed(self) -> None:
        await self._inner.wait_changed()


def _stored(key: str, value: MemberValue) -> StoredValue:
    """As if it had been stored for everybody."""
    return StoredValue(key_id(key), value.peer_id, value.value, value.expires_ms)
