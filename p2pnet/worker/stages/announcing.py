"""Announces a stage in the directory while it serves, and withdraws it when it stops.

Knows nothing of streams or of how layers run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from p2pnet.config import AGENT, DirectoryConfig
from p2pnet.directory import entries_for
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.records import StageRecord, seal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageLoad:
    """How much room there is at this moment, and how long a forward pass takes lately."""

    kv_free_tokens: int
    step_ms: float


NO_LOAD = StageLoad(0, 0.0)
"""Of layers that are not loaded yet."""


class StageAnnouncer:
    """Speaks for one stage in the directory, or for several that follow one another on one machine: see `speak_for`."""

    def __init__(
        self,
        network: Network,
        identity: Identity,
        now_ms: Clock,
        config: DirectoryConfig | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._network = network
        self._identity = identity
        self._blank: StageRecord | None = None
        self._load: Callable[[], StageLoad] = lambda: NO_LOAD
        self._now_ms = now_ms
        self._config = config or DirectoryConfig()
        self._sleep = sleep
        self._last_expires_ms = 0
        self._is_paused = False
        self._is_started = False
        self._background = Background(sleep)

    def speak_for(self, blank: StageRecord, load: Callable[[], StageLoad] = lambda: NO_LOAD) -> None:
        """Announce this from the next time on. `blank` says what it is; its times and load are put in here."""
        self._blank, self._load = blank, load

    async def start(self, is_paused: bool = False) -> None:
        """Announce now, and go on in the background. A paused stage says that it is offline."""
        await self.set_paused(is_paused)
        if not self._is_started:
            self._is_started = True
            self._background.keep("announcing layers", self._repeat)

    async def set_paused(self, is_paused: bool) -> None:
        """Withdraw until told otherwise, or announce again. Never raises."""
        self._is_paused = is_paused
        await self._try(not is_paused)

    async def stop(self) -> None:
        """Stop announcing, and overwrite what is stored with a record that says offline. Never raises."""
        await self._background.stop()
        self._is_started = False
        await self._try(False)

    async def _repeat(self) -> None:
        while True:
            await self._sleep(self._config.stage_interval_s)
            if not self._is_paused:
                await self._try(True)

    async def _try(self, is_online: bool) -> None:
        if self._blank is None:
            return
        try:
            record = await self._record(self._blank, is_online)
            if not await self._network.store(entries_for(record, seal(record, self._identity))):
                logger.debug("no peer has taken the announcement of layers yet")
        except Exception:  # it outlives whatever the network does to it; the next turn comes
            logger.warning("an announcement of layers failed; the next one follows", exc_info=True)

    async def _record(self, blank: StageRecord, is_online: bool) -> StageRecord:
        """What is so now. It expires after all that were announced before, or it would not overwrite them."""
        issued_ms, load = self._now_ms(), self._load()
        lifetime_ms = round(self._config.stage_lifetime_s * 1000)
        self._last_expires_ms = max(issued_ms + (lifetime_ms if is_online else 1), self._last_expires_ms + 1)
        return msgspec.structs.replace(
            blank,
            sequence=self._last_expires_ms,
            issued_ms=issued_ms,
            expires_ms=self._last_expires_ms,
            addresses=await self._network.record_addresses(),
            kv_free_tokens=max(0, load.kv_free_tokens),
            step_ms=load.step_ms,
            is_online=is_online,
        )


def blank_record(
    identity: Identity, digest: str, first: int, last: int, layers: int, since_ms: int, is_ready: bool = True
) -> StageRecord:
    """What is the same in all records of a stage."""
    blank = StageRecord(identity.peer_id, 0, 0, 1, digest, first, last, layers, (), agent=AGENT)
    return msgspec.structs.replace(blank, since_ms=since_ms, is_ready=is_ready)
