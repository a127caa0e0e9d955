"""What a member does beside its work: it learns what is revoked, hands that on, and says that it is here.

Knows nothing of streams: it is handed what to do when members may have become strangers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from p2pnet.errors import UsageError
from p2pnet.network.interface import Clock, Entry
from p2pnet.records import MAX_LIFETIME_MS
from p2pnet.swarm.kept_list import KeptList
from p2pnet.swarm.membership import OwnCertificate
from p2pnet.swarm.register import Register
from p2pnet.swarm.values import MemberValue, MemberValues

logger = logging.getLogger(__name__)

MEMBERS_KEY = "p2pnet/1/members"
REVOCATIONS_KEY = "p2pnet/1/revocations"
"""Keys of a swarm, as its secret blinds them."""

LOOK_S = 20.0
"""How often a member looks for a newer list: it goes by it within a minute also when a look has failed."""

LOOKS_PER_PRESENCE = 3
PRESENCE_MS = 180_000
"""A member says once a minute that it is here, and is thought to be for three. The first time is after a while, so that
a command that only reads is no member that was seen."""

COPIES = 4
"""Members that have a list in the DHT, for long enough, before others need not. With fewer, who looks adds one."""

WARN_BEFORE_MS = 7 * 86_400_000
"""How long before its membership ends a member warns of it."""


class Upkeep:
    """That of one member. Make it run with `run`, after a first `look`."""

    def __init__(
        self,
        values: MemberValues,
        register: Register,
        kept_list: KeptList,
        certificate: OwnCertificate,
        now_ms: Clock,
        members_may_have_changed: Callable[[], None],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._values = values
        self._register = register
        self._kept_list = kept_list
        self._certificate = certificate
        self._now_ms = now_ms
        self._members_may_have_changed = members_may_have_changed
        self._sleep = sleep
        self._has_warned = False

    async def run(self) -> None:
        looks = 0
        while True:
            await self._sleep(LOOK_S)
            looks += 1
            await self._try(self.renew)
            await self._try(self.look)
            if looks % LOOKS_PER_PRESENCE == 1:
                await self._try(self.say_present)

    async def renew(self) -> None:
        """Take a newer invitation, if the user has one, or say in time that one is needed."""
        left_ms = self._certificate.renew().expires_ms - self._now_ms()
        if left_ms < WARN_BEFORE_MS and not self._has_warned:
            logger.warning(
                "this peer's membership ends in %d hours: take another invitation with `p2pnet swarm join`",
                max(0, left_ms // 3_600_000),
            )
        self._has_warned = left_ms < WARN_BEFORE_MS

    async def look(self) -> bool:
        """Learn the newest list, go by it, and hand it on. Returns whether it lies in the DHT; True where there is
        none."""
        kept = self._kept_list.read()
        self._go_by([kept])  # first: the network may be away
        found = (await self._values.get([REVOCATIONS_KEY]))[REVOCATIONS_KEY]
        self._go_by([value.value for value in found])
        newest = self._register.sealed_list
        if not newest:
            return True
        if kept != newest:
            try:
                self._kept_list.write(newest, self._register.sequence)
            except UsageError as error:
                logger.warning("what is revoked is not kept for the next start: %s", error.message)
        copies = [value for value in found if value.value == newest]
        half_a_life_ms = self._now_ms() + MAX_LIFETIME_MS // 2
        lasting = {value.peer_id for value in copies if value.expires_ms > half_a_life_ms}
        if len(lasting) >= COPIES or self._values.peer_id in lasting:
            return True
        return await self._put(REVOCATIONS_KEY, newest, MAX_LIFETIME_MS) or bool(copies)

    async def say_present(self) -> bool:
        """Returns whether any peer has taken it."""
        return await self._put(MEMBERS_KEY, b"", PRESENCE_MS)

    async def members(self) -> list[MemberValue]:
        """Who has said so lately: the last word of each."""
        found = (await self._values.get([MEMBERS_KEY]))[MEMBERS_KEY]
        return list({value.peer_id: value for value in sorted(found, key=lambda value: value.expires_ms)}.values())

    def _go_by(self, sealed_lists: Sequence[bytes]) -> None:
        for sealed in sealed_lists:
            self._register.learn(sealed)
        self._members_may_have_changed()  # also where nothing is new: certificates end by themselves

    async def _put(self, key: str, value: bytes, lifetime_ms: int) -> bool:
        return await self._values.put([Entry(key, value, self._now_ms() + lifetime_ms)]) > 0

    async def _try(self, act: Callable[[], Awaitable[object]]) -> None:
        try:
            await act()
        except Exception:  # outlives whatever the network does to it, as the announcer does; the next turn comes
            logger.warning("the swarm was not looked after; the next turn follows", exc_info=True)
