"""Keeps a worker's records in the directory: announces, refreshes before they expire, withdraws.

Knows nothing of streams or of how models run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from p2pnet.config import AGENT, DirectoryConfig
from p2pnet.directory import entries_for
from p2pnet.errors import RecordRefused
from p2pnet.identity import Identity
from p2pnet.network import Clock, Network
from p2pnet.records import MAX_ADDRESSES, CapabilityRecord, LoadRecord, ModelCard, Record, seal
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.load import LoadMeter

logger = logging.getLogger(__name__)

MIN_ADDRESSES = 1
"""A record that does not even fit with one address has too many models."""

RETRY_S = 1.0
MAX_DOUBLINGS = 6
"""After an announcement that nobody took: again in 2 s, then 4 s and so on, up to the usual interval."""


class Announcer:
    """One worker's voice in the directory."""

    def __init__(
        self,
        network: Network,
        identity: Identity,
        models: Callable[[], tuple[ModelCard, ...]],
        meter: LoadMeter,
        now_ms: Clock,
        config: DirectoryConfig | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._network = network
        self._identity = identity
        self._models = models
        self._meter = meter
        self._now_ms = now_ms
        self._config = config or DirectoryConfig()
        self._sleep = sleep
        self._last_sequence = 0
        self._last_expires_ms = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> bool:
        """Announce now, and go on in the background. Returns whether any peer has taken the announcement."""
        is_stored = await self._announce_capabilities()
        await self._announce_load()
        interval_s, failures = self._config.capability_interval_s, int(not is_stored)
        self._tasks = [
            asyncio.create_task(self._repeat(self._announce_capabilities, interval_s, failures)),
            asyncio.create_task(self._repeat(self._announce_load, self._config.load_interval_s)),
            asyncio.create_task(self._announce_on_change()),
        ]
        return is_stored

    async def stop(self) -> None:
        """Stop announcing, and overwrite what is still stored: this worker is offline. Never raises."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._try(self._withdraw)

    async def _announce_capabilities(self) -> bool:
        record = await self._capabilities(is_online=True)
        self._last_expires_ms = max(self._last_expires_ms, record.expires_ms)
        return await self._store(record)

    async def _withdraw(self) -> bool:
        """Expires just after all we have announced: late enough to overwrite it, early enough not to stand in the way
        of what we announce when we are started again a moment later."""
        record = await self._capabilities(is_online=False)
        expires_ms = max(self._last_expires_ms, record.issued_ms) + 1
        return await self._store(msgspec.structs.replace(record, expires_ms=expires_ms))

    async def _announce_load(self) -> bool:
        sequence, issued_ms, expires_ms = self._stamp(self._config.load_lifetime_s)
        return await self._store(
            LoadRecord(
                peer_id=self._identity.peer_id,
                sequence=sequence,
                issued_ms=issued_ms,
                expires_ms=expires_ms,
                load=self._meter.load,
                tokens_per_s=self._meter.tokens_per_s,
            )
        )

    async def _capabilities(self, is_online: bool) -> CapabilityRecord:
        addresses = await self._network.addresses()
        sequence, issued_ms, expires_ms = self._stamp(self._config.capability_lifetime_s)
        return CapabilityRecord(
            peer_id=self._identity.peer_id,
            sequence=sequence,
            issued_ms=issued_ms,
            expires_ms=expires_ms,
            models=self._models(),
            addresses=addresses[:MAX_ADDRESSES],
            protocols=(GENERATE_PROTOCOL,),
            slots=self._meter.load.slots,
            is_online=is_online,
            agent=AGENT,
        )

    def _stamp(self, lifetime_s: float) -> tuple[int, int, int]:
        """Sequence number, issue and expiry. Sequences follow the clock, so that they grow over restarts too."""
        issued_ms = self._now_ms()
        self._last_sequence = max(issued_ms, self._last_sequence + 1)
        return self._last_sequence, issued_ms, issued_ms + round(lifetime_s * 1000)

    def _seal(self, record: Record) -> bytes:
        """Sealed, with as many of the addresses as fit: the best ones come first. Raises RecordRefused."""
        while True:
            try:
                return seal(record, self._identity)
            except RecordRefused:
                if not isinstance(record, CapabilityRecord) or len(record.addresses) <= MIN_ADDRESSES:
                    raise
                record = msgspec.structs.replace(record, addresses=record.addresses[:-1])

    async def _store(self, record: Record) -> bool:
        entries = entries_for(record, self._seal(record))
        accepted = await self._network.store(entries)
        if accepted < len(entries):
            logger.debug("%d of %d directory keys were stored", accepted, len(entries))
        return accepted == len(entries)

    async def _repeat(self, announce: Callable[[], Awaitable[bool]], interval_s: float, failures: int = 0) -> None:
        while True:
            await self._sleep(min(interval_s, RETRY_S * 2**failures) if failures else interval_s)
            failures = 0 if await self._try(announce) else min(failures + 1, MAX_DOUBLINGS)

    async def _announce_on_change(self) -> None:
        while True:
            await self._network.wait_changed()
            await self._try(self._announce_capabilities)
            await self._try(self._announce_load)

    async def _try(self, announce: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await announce()
        except Exception:  # the announcer outlives whatever the network does to it; the next turn comes
            logger.warning("an announcement failed; the next one follows", exc_info=True)
            return False
