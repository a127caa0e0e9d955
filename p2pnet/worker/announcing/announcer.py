"""Announces a worker in the directory, and withdraws it when it stops, is paused or has no model. Follows models that
come and go, and announces anew before records expire.

Knows nothing of streams or of how models run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from p2pnet.config import AGENT, DirectoryConfig
from p2pnet.directory import entries_for
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.records import MAX_LIFETIME_MS, CapabilityRecord, LoadRecord, ModelCard, Record, seal
from p2pnet.wire.exchange import PROTOCOLS, STATUS_PROTOCOL
from p2pnet.worker.announcing.fitting import fitted
from p2pnet.worker.observability.load import LoadMeter

logger = logging.getLogger(__name__)

MODELS_INTERVAL_S = 1.0
"""How often the models are compared with those announced: as often as gateways look is soon enough."""

MAX_ISSUED = 256
"""Sequence numbers that are remembered: those of the records that have not expired, and more."""

RETRY_S = 1.0
MAX_DOUBLINGS = 6
"""After an announcement that nobody took: again in 2 s, then 4 s and so on, up to the usual interval."""


class Announcer:
    """Speaks for one worker in the directory."""

    def __init__(
        self,
        network: Network,
        identity: Identity,
        models: Callable[[], tuple[ModelCard, ...]],
        meter: LoadMeter,
        now_ms: Clock,
        config: DirectoryConfig | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        name: str = "",
    ) -> None:
        self._network = network
        self._identity = identity
        self._models = models
        self._meter = meter
        self._now_ms = now_ms
        self._config = config or DirectoryConfig()
        self._sleep = sleep
        self._name = name
        self._last_sequence = 0
        self._issued: deque[int] = deque(maxlen=MAX_ISSUED)
        self.stored_sequence = 0
        """That of the newest capability record that the directory has taken, a withdrawal among them."""
        self._last_expires_ms = 0
        self._capabilities_lock = asyncio.Lock()
        self._is_paused = False
        self._is_withdrawn = False
        self._told: tuple[ModelCard, ...] = ()
        """What ran when this was last announced or withdrawn."""
        self._listed: dict[str, int] = {}
        """When the last record that lists a model expires, in Unix milliseconds, by model."""
        self._left_out: tuple[str, ...] = ()
        self._times_without_address = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, is_paused: bool = False) -> bool:
        """Announce now, and go on in the background. Returns whether any peer has taken the announcement. A paused
        worker announces that it is offline."""
        self._is_paused = is_paused
        is_stored = await self._announce_capabilities()
        await self._announce_load()
        interval_s, failures = self._config.capability_interval_s, int(not is_stored)
        self._tasks = [
            asyncio.create_task(self._repeat(self._announce_capabilities, interval_s, failures)),
            asyncio.create_task(self._repeat(self._announce_load, self._config.load_interval_s)),
            asyncio.create_task(self._announce_on_change()),
            asyncio.create_task(self._announce_on_new_models()),
        ]
        return is_stored

    def has_issued(self, sequence: int) -> bool:
        """Whether the record of this number, which has not expired yet, is one of ours."""
        return sequence in self._issued

    async def set_paused(self, is_paused: bool) -> None:
        """Withdraw until told otherwise, or announce again. What fails now is repeated in turn. Never raises."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            await self._try(self._announce_capabilities)
            await self._try(self._announce_load)

    async def stop(self) -> None:
        """Stop announcing, and overwrite what is still stored with a record that says offline. Never raises."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._try(self._withdraw)

    async def _announce_capabilities(self) -> bool:
        """Announce what is so now. Announcements wait for one another, so that the last to be stored is the last that
        was wanted."""
        async with self._capabilities_lock:
            self._told = self._models()
            if self._is_paused or not self._told:
                return self._is_withdrawn or await self._withdraw()
            self._is_withdrawn = False
            return await self._store(await self._online())

    async def _online(self) -> CapabilityRecord:
        addresses = await self._network.record_addresses()
        self._warn_without(addresses)
        record = msgspec.structs.replace(self._capabilities(), models=self._told, addresses=addresses)
        running = {card.id for card in record.models}
        self._listed = {
            model: expires_ms for model, expires_ms in self._listed.items() if expires_ms > record.issued_ms
        }
        record = self._outlasting(record, record.expires_ms)
        withdrawn = tuple(model for model in self._listed if model not in running)
        record = fitted(msgspec.structs.replace(record, withdrawn=withdrawn))
        self._listed |= dict.fromkeys((card.id for card in record.models), record.expires_ms)
        self._warn_of(tuple(card.id for card in self._told[len(record.models) :]))
        return record

    async def _withdraw(self) -> bool:
        """Overwrite all we have announced with a record that expires just after it. An earlier expiry would not
        overwrite it; a later one would stand in the way of what we announce when we are started again a moment later.
        Records of an earlier run that was killed are overwritten for a whole lifetime."""
        models = dict.fromkeys((*self._listed, *(card.id for card in self._models())))
        record = msgspec.structs.replace(self._capabilities(), is_online=False, withdrawn=tuple(models))
        expires_ms = record.issued_ms + 1 if self._last_expires_ms else record.expires_ms
        self._is_withdrawn = await self._store(fitted(self._outlasting(record, expires_ms)))
        return self._is_withdrawn

    def _outlasting(self, record: CapabilityRecord, expires_ms: int) -> CapabilityRecord:
        """An expiry at this time, or just after all we have announced, since an earlier one would not overwrite that.
        It stays within the limits of records: where our clock was ahead, that may be too early."""
        latest_ms = record.issued_ms + MAX_LIFETIME_MS
        self._last_expires_ms = max(expires_ms, min(self._last_expires_ms + 1, latest_ms))
        return msgspec.structs.replace(record, expires_ms=self._last_expires_ms)

    async def _announce_load(self) -> bool:
        if self._is_withdrawn:
            return True
        sequence, issued_ms, expires_ms = self._stamp(self._config.load_lifetime_s)
        return await self._store(
            LoadRecord(
                peer_id=self._identity.peer_id,
                sequence=sequence,
                issued_ms=issued_ms,
                expires_ms=expires_ms,
                load=self._meter.load,
            )
        )

    def _capabilities(self) -> CapabilityRecord:
        """A record with what is the same in all of ours, and its stamp."""
        sequence, issued_ms, expires_ms = self._stamp(self._config.capability_lifetime_s)
        return CapabilityRecord(
            peer_id=self._identity.peer_id,
            sequence=sequence,
            issued_ms=issued_ms,
            expires_ms=expires_ms,
            models=(),
            addresses=(),
            protocols=(*dict.fromkeys(PROTOCOLS[card.task] for card in self._models()), STATUS_PROTOCOL),
            slots=self._meter.load.slots,
            agent=AGENT,
            name=self._name,
        )

    def _stamp(self, lifetime_s: float) -> tuple[int, int, int]:
        """Sequence number, issue and expiry. Sequence numbers follow the clock, so that they grow over restarts too."""
        issued_ms = self._now_ms()
        self._last_sequence = max(issued_ms, self._last_sequence + 1)
        self._issued.append(self._last_sequence)
        return self._last_sequence, issued_ms, issued_ms + round(lifetime_s * 1000)

    def _warn_of(self, left_out: tuple[str, ...]) -> None:
        """Warn once, and again when others are left out."""
        if left_out and left_out != self._left_out:
            logger.warning("one announcement does not hold all models; nobody finds %s", ", ".join(left_out))
        self._left_out = left_out

    def _warn_without(self, addresses: tuple[str, ...]) -> None:
        """Warn once when there is no address to announce, but not at the start: a router may still be asked."""
        self._times_without_address = 0 if addresses else self._times_without_address + 1
        if self._times_without_address == 2:
            logger.warning(
                "nobody can reach this worker: it cannot be dialled, and no peer relays for it. Name another peer with "
                "--initial-peers, or forward the --listen ports on the router and name them with --announce"
            )

    async def _store(self, record: Record) -> bool:
        entries = entries_for(record, seal(record, self._identity))
        accepted = await self._network.store(entries)
        if accepted < len(entries):
            logger.debug("%d of %d directory keys were stored", accepted, len(entries))
            return False
        if isinstance(record, CapabilityRecord):
            self.stored_sequence = record.sequence
        return True

    async def _repeat(self, announce: Callable[[], Awaitable[bool]], interval_s: float, failures: int = 0) -> None:
        while True:
            await self._sleep(min(interval_s, RETRY_S * 2**failures) if failures else interval_s)
            failures = 0 if await self._try(announce) else min(failures + 1, MAX_DOUBLINGS)

    async def _announce_on_new_models(self) -> None:
        failures = 0
        while True:
            await self._sleep(RETRY_S * 2**failures if failures else MODELS_INTERVAL_S)
            if failures or self._models() != self._told:
                is_stored = await self._try(self._announce_capabilities)
                failures = 0 if is_stored else min(failures + 1, MAX_DOUBLINGS)
                await self._try(self._announce_load)

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
