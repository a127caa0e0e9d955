"""Announces a worker in the directory, and withdraws it when it stops, is paused or has no model. Follows models that
come and go, and announces anew before records expire.

Knows nothing of streams or of how models run.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import msgspec

from p2pnet.config import AGENT, DirectoryConfig
from p2pnet.directory import entries_for
from p2pnet.features import SCORE
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.model_shards import ROOMY_SHARD, Placing
from p2pnet.network.interface import Clock, Entry, Network
from p2pnet.records import (
    MAX_LIFETIME_MS,
    MAX_MODELS,
    MAX_PARTS,
    MAX_RECORD_BYTES,
    CapabilityRecord,
    IncompleteModel,
    ModelCard,
    seal,
)
from p2pnet.wire.exchange import PROTOCOLS, SCORE_PROTOCOL, STATUS_PROTOCOL, WATCH_PROTOCOL
from p2pnet.worker.announcing.fitting import fitted, shares
from p2pnet.worker.observability.load import LoadMeter

logger = logging.getLogger(__name__)

MODELS_INTERVAL_S = 1.0
"""How often the models are compared with those announced: as often as gateways look is soon enough."""

LARGEST_STAMP = (1 << 53) - 1
"""What a record may hold."""
MAX_ISSUED = 256
"""Sequence numbers that are remembered: those of the records that have not expired, and more."""

LOOK_ABOVE_EVERY = 5
"""Announcements, five minutes: from a place on a lower level it is looked whether there is room above."""

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
        incomplete: Callable[[], tuple[IncompleteModel, ...]] = tuple,
    ) -> None:
        self._network = network
        self._identity = identity
        self._models = models
        self._incomplete = incomplete
        self._meter = meter
        self._now_ms = now_ms
        self._config = config or DirectoryConfig()
        self._sleep = sleep
        self._name = name
        self._last_sequence = 0
        self._issued: deque[int] = deque(maxlen=MAX_ISSUED)
        self.stored_sequence = 0
        """That of the newest capability record that the directory has taken, a withdrawal among them."""
        self._sealed: dict[int, bytes] = {}
        self._last_expires_ms = 0
        self._capabilities_lock = asyncio.Lock()
        self._is_paused = False
        self._is_withdrawn = False
        self._is_behind = False
        """Whether nobody has taken the last pause, or the end of it."""
        self._told: tuple[ModelCard, ...] = ()
        """What ran when this was last announced or withdrawn."""
        self._told_incomplete: tuple[IncompleteModel, ...] = ()
        self._listed: dict[str, int] = {}
        """When the last record that lists a model expires, in Unix milliseconds, by model."""
        self._placing = Placing(identity.peer_id)
        self._announcements = 0
        self._parts = 1
        """Of how many records the last announcement was."""
        self._left_out: tuple[str, ...] = ()
        self._times_without_address = 0
        self._background = Background(sleep)

    async def start(self, is_paused: bool = False) -> bool:
        """Announce now, and go on in the background. Returns whether any peer has taken the announcement. A paused
        worker announces that it is offline."""
        self._is_paused = is_paused
        is_stored = await self._announce_capabilities()
        interval_s = self._config.capability_interval_s
        failures = int(not is_stored)
        again = partial(self._repeat, self._announce_capabilities, interval_s, failures)
        self._background.keep("announcing", again)
        self._background.keep("announcing what has changed", self._announce_on_change)
        self._background.keep("announcing new models", self._announce_on_new_models)
        return is_stored

    @property
    def records(self) -> tuple[bytes, ...]:
        """The sealed records that it announces now, taken by the directory or not yet: all its parts."""
        return tuple(self._sealed[part] for part in sorted(self._sealed))

    def has_issued(self, sequence: int) -> bool:
        """Whether the record of this number, which has not expired yet, is one of ours."""
        return sequence in self._issued

    async def set_paused(self, is_paused: bool) -> None:
        """Withdraw until told otherwise, or announce again. What fails now is repeated with the next look at the
        models. Never raises."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self._is_behind = not await self._try(self._announce_capabilities)

    async def stop(self) -> None:
        """Stop announcing, and overwrite what is still stored with a record that says offline. Never raises."""
        await self._background.stop()
        await self._try(self._withdraw)

    async def _announce_capabilities(self) -> bool:
        """Announce what is so now. Announcements wait for one another, so that the last to be stored is the last that
        was wanted."""
        async with self._capabilities_lock:
            self._told, self._told_incomplete = self._models(), self._incomplete()
            if self._is_paused or not (self._told or self._told_incomplete):
                return self._is_withdrawn or await self._withdraw()
            self._is_withdrawn = False
            self._announcements += 1
            if self._announcements % LOOK_ABOVE_EVERY == 0:
                await self._look_above()
            return all([await self._store(record) for record in await self._online()])

    async def _online(self) -> list[CapabilityRecord]:
        """What runs, in as many records as it takes. The first has the names of what is withdrawn."""
        addresses = await self._network.record_addresses()
        self._warn_without(addresses)
        now_ms = self._now_ms()
        self._listed = {model: expires_ms for model, expires_ms in self._listed.items() if expires_ms > now_ms}
        running = {card.id for card in self._told}
        withdrawn = tuple(model for model in self._listed if model not in running)
        whole = msgspec.structs.replace(
            self._blank(),
            models=self._told,
            addresses=addresses,
            withdrawn=withdrawn,
            incomplete=self._told_incomplete,
        )
        parted = shares(whole, self._max_bytes)
        self._parts = max(len(parted), 1)
        records = [self._part(whole, part, models) for part, models in enumerate(parted)]
        for record in records:
            self._listed |= dict.fromkeys((card.id for card in record.models), record.expires_ms)
        told = {card.key for record in records for card in record.models}
        self._warn_of(tuple(card.id for card in self._told if card.key not in told))
        return records

    def _part(self, whole: CapabilityRecord, part: int, models: tuple[ModelCard, ...]) -> CapabilityRecord:
        record = msgspec.structs.replace(
            self._stamped(whole),
            models=models,
            withdrawn=whole.withdrawn if part == 0 else (),
            part=part,
            parts=self._parts,
        )
        return fitted(self._outlasting(record, record.expires_ms), self._max_bytes)

    async def _withdraw(self) -> bool:
        """Overwrite all we have announced with a record that expires just after it. An earlier expiry would not
        overwrite it; a later one would stand in the way of what we announce when we are started again a moment later.
        Records of an earlier run that was killed are overwritten for a whole lifetime."""
        models = tuple(dict.fromkeys((*self._listed, *(card.id for card in self._models()))))
        named = [models[i : i + MAX_MODELS] for i in range(0, len(models), MAX_MODELS)][:MAX_PARTS]
        parts = max(len(named), self._parts)
        stored = []
        for part in range(parts):
            record = msgspec.structs.replace(
                self._stamped(self._blank()),
                is_online=False,
                withdrawn=named[part] if part < len(named) else (),
                part=part,
                parts=parts,
            )
            expires_ms = record.issued_ms + 1 if self._last_expires_ms else record.expires_ms
            stored.append(await self._store(fitted(self._outlasting(record, expires_ms), self._max_bytes)))
        self._is_withdrawn = all(stored)
        return self._is_withdrawn

    def _outlasting(self, record: CapabilityRecord, expires_ms: int) -> CapabilityRecord:
        """An expiry at this time, or just after all we have announced, since an earlier one would not overwrite that.
        It stays within the limits of records: where our clock was ahead, that may be too early."""
        latest_ms = record.issued_ms + MAX_LIFETIME_MS
        self._last_expires_ms = max(expires_ms, min(self._last_expires_ms + 1, latest_ms))
        return msgspec.structs.replace(record, expires_ms=self._last_expires_ms)

    def _stamped(self, record: CapabilityRecord) -> CapabilityRecord:
        sequence, issued_ms, expires_ms = self._stamp(self._config.capability_lifetime_s)
        return msgspec.structs.replace(record, sequence=sequence, issued_ms=issued_ms, expires_ms=expires_ms)

    def _blank(self) -> CapabilityRecord:
        """What is the same in all of our records, still to be stamped: with the largest stamp, for its size."""
        return CapabilityRecord(
            peer_id=self._identity.peer_id,
            sequence=LARGEST_STAMP,
            issued_ms=LARGEST_STAMP,
            expires_ms=LARGEST_STAMP,
            models=(),
            addresses=(),
            protocols=protocols_for(self._models()),
            slots=self._meter.load.slots,
            agent=AGENT,
            name=self._name,
            load=self._meter.load,
        )

    @property
    def _max_bytes(self) -> int:
        return self._config.max_record_bytes or MAX_RECORD_BYTES

    def _stamp(self, lifetime_s: float) -> tuple[int, int, int]:
        """Sequence number, issue and expiry. Sequence numbers follow the clock, so that they grow over restarts too."""
        issued_ms = self._now_ms()
        self._last_sequence = max(issued_ms, self._last_sequence + 1)
        self._issued.append(self._last_sequence)
        return self._last_sequence, issued_ms, issued_ms + round(lifetime_s * 1000)

    def _warn_of(self, left_out: tuple[str, ...]) -> None:
        """Warn once, and again when others are left out."""
        if left_out and left_out != self._left_out:
            logger.warning("%d records do not hold all models; nobody finds %s", MAX_PARTS, ", ".join(left_out))
        self._left_out = left_out

    def _warn_without(self, addresses: tuple[str, ...]) -> None:
        """Warn once when there is no address to announce, but not at the start: a router may still be asked."""
        self._times_without_address = 0 if addresses else self._times_without_address + 1
        if self._times_without_address == 2:
            logger.warning(
                "nobody can reach this worker: it cannot be dialled, and no peer relays for it. Name another peer with "
                "--initial-peers, or forward the --listen ports on the router and name them with --announce"
            )

    async def _store(self, record: CapabilityRecord) -> bool:
        sealed = seal(record, self._identity)
        self._sealed = {part: self._sealed[part] for part in self._sealed if part < record.parts}
        self._sealed[record.part] = sealed
        entries = entries_for(record, sealed, self._placing)
        accepted = await self._network.store(entries)
        if accepted < len(entries):
            logger.debug("%d of %d directory keys were stored", accepted, len(entries))
            self._placing.doubt()
        models = [card.id for card in record.models]
        has_moved = [await self._go_down(model, sealed, record.expires_ms) for model in dict.fromkeys(models)]
        if accepted < len(entries) - sum(has_moved):
            return False
        self.stored_sequence = record.sequence
        return True

    async def _go_down(self, model: str, sealed: bytes, expires_ms: int) -> bool:
        """Announce one model on lower levels where others have filled the higher ones. Returns whether it has a place
        there. Where nobody stores who knows of levels, it stays above."""
        has_moved = False
        while self._placing.goes_down(model, self._network.held):
            has_moved = await self._network.store([Entry(self._placing.key(model), sealed, expires_ms)]) > 0
            if not has_moved:
                self._placing.go_up(model)
        return has_moved

    async def _look_above(self) -> None:
        """Models of which others have gone come back up: there readers look first."""
        running = {card.id for card in self._told}
        self._placing.keep(running | self._listed.keys())
        for model in running:
            above = self._placing.key_above(model)
            if above is not None:
                await self._network.fetch([above])
                if self._network.held(above) < ROOMY_SHARD:
                    self._placing.go_up(model)

    async def _repeat(self, announce: Callable[[], Awaitable[bool]], interval_s: float, failures: int = 0) -> None:
        while True:
            await self._sleep(min(interval_s, RETRY_S * 2**failures) if failures else interval_s)
            failures = 0 if await self._try(announce) else min(failures + 1, MAX_DOUBLINGS)

    async def _announce_on_new_models(self) -> None:
        failures = 0
        while True:
            await self._sleep(RETRY_S * 2**failures if failures else MODELS_INTERVAL_S)
            is_news = (self._models(), self._incomplete()) != (self._told, self._told_incomplete)
            if failures or self._is_behind or is_news:
                self._is_behind = False
                is_stored = await self._try(self._announce_capabilities)
                failures = 0 if is_stored else min(failures + 1, MAX_DOUBLINGS)

    async def _announce_on_change(self) -> None:
        failures = 0
        while True:
            if await self._has_changed(RETRY_S * 2**failures if failures else None):
                failures = 0
            is_stored = await self._try(self._announce_capabilities)
            failures = 0 if is_stored else min(failures + 1, MAX_DOUBLINGS)

    async def _has_changed(self, within_s: float | None) -> bool:
        """Wait until the network has changed, or so much time has passed: which of them it was."""
        if within_s is None:
            await self._network.wait_changed()
            return True
        waits = [asyncio.ensure_future(self._network.wait_changed()), asyncio.ensure_future(self._sleep(within_s))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return waits[0].done()
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _try(self, announce: Callable[[], Awaitable[bool]]) -> bool:
        try:
            return await announce()
        except Exception:  # the announcer outlives whatever the network does to it; the next turn comes
            logger.warning("an announcement failed; the next one follows", exc_info=True)
            return False


def protocols_for(models: Iterable[ModelCard]) -> tuple[str, ...]:
    """The stream protocols that serve these models, and those that every worker speaks."""
    cards = tuple(models)
    scores = [SCORE_PROTOCOL] if any(SCORE in card.features for card in cards) else []
    asked_for = dict.fromkeys(PROTOCOLS[task] for card in cards for _, task in card.asked_for)
    return (*asked_for, *scores, STATUS_PROTOCOL, WATCH_PROTOCOL)
