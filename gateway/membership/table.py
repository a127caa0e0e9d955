"""The peer table: the workers that this gateway may use, and those that it has lost.

Owns which workers are in and which have been lost. Chooses nothing (see `gateway.routing.choose`), asks no worker
(see `gateway.membership.probing`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from gateway.interface import ModelEntry
from gateway.peers.worker import Worker
from gateway.routing.roster import Roster
from p2pnet.directory import Directory
from p2pnet.records import CapabilityRecord, LoadRecord

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 2.0
"""How soon a new worker is seen. One refresh is a handful of small messages to the peers that hold the directory."""

MAX_KNOWN_MODELS = 10_000
"""Names of models remembered after their workers have gone."""

MAX_GONE = 1_000
"""Workers that have gone and of which the measurements are kept, in case they come back."""

LOOK_UP_AGAIN_S = 2.0
"""A model that the directory was just asked for is not asked for again: by then a refresh shows it anyway."""

MAX_LOOK_UPS = 8
"""Models looked up at the same time. What clients ask for are strangers' words, and each costs messages to some ten
peers: with more at once, the next refresh has to do."""

MAX_LOOKED_UP = 1_024
"""Names remembered for LOOK_UP_AGAIN_S."""

Monotonic = Callable[[], float]


class PeerTable:
    """All workers by peer id, and the roster to choose from. `on_change` is called after a change of the roster."""

    def __init__(
        self,
        directory: Directory,
        now_s: Monotonic = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        refresh_interval_s: float = REFRESH_INTERVAL_S,
        known_models: Iterable[str] = (),
    ) -> None:
        self._directory = directory
        self._now_s = now_s
        self._unix_s = unix_s
        self._refresh_interval_s = refresh_interval_s
        self._workers: dict[str, Worker] = {}
        self._lost: dict[str, Worker] = {}
        self._gone: OrderedDict[str, Worker] = OrderedDict()
        self._loads_seen: dict[str, int] = {}
        self._looking_up: dict[str, asyncio.Event] = {}
        self._looked_up_s: OrderedDict[str, float] = OrderedDict()
        self._first_seen_s: dict[str, int] = dict.fromkeys(known_models, int(unix_s()))
        self.roster = Roster(())
        self.on_change: Callable[[], None] = lambda: None
        self.has_refreshed = False

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those in use, in no order."""
        return tuple(self._workers.values())

    @property
    def lost(self) -> tuple[Worker, ...]:
        """Those that are announced and did not answer."""
        return tuple(self._lost.values())

    async def keep_fresh(self) -> None:
        """Refresh for ever. Runs as a task for as long as the gateway does."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the edge: one bad refresh must not be the last one
                logger.exception("the directory could not be read")
            await asyncio.sleep(self._refresh_interval_s)

    async def refresh(self) -> None:
        """Read the directory once."""
        records = {record.peer_id: record for record in await self._directory.workers()}
        gone = [worker for worker in self._workers.values() if worker.peer_id not in records]
        for worker in gone:
            self._put_away(self._workers.pop(worker.peer_id))
        for worker in [worker for worker in self._lost.values() if worker.peer_id not in records]:
            self._put_away(self._lost.pop(worker.peer_id))
        if self._take_in(records.values()) or gone:
            self._rebuild()
        self.has_refreshed = True
        self._note_loads((await self._directory.loads()).values())

    async def look_up(self, model: str) -> None:
        """Ask the directory for the workers of one model that the last refresh did not show. Cheap for names that
        somebody invents: each is asked for once at a time, and not again right after."""
        while (under_way := self._looking_up.get(model)) is not None:
            await under_way.wait()
        if self._has_looked_up(model) or len(self._looking_up) >= MAX_LOOK_UPS:
            return
        self._looking_up[model] = asyncio.Event()
        try:
            found = await self._directory.workers_of(model)
        finally:
            self._looking_up.pop(model).set()
        self._looked_up_s[model] = self._now_s()
        if len(self._looked_up_s) > MAX_LOOKED_UP:
            self._looked_up_s.popitem(last=False)
        if self._take_in(found):
            self._rebuild()

    def note_lost(self, worker: Worker) -> None:
        """It does not answer: out of the roster until it announces itself anew, or answers a probe."""
        if self._workers.get(worker.peer_id) is not worker:
            return
        worker.health.note_unanswered(self._now_s())
        self._lost[worker.peer_id] = self._workers.pop(worker.peer_id)
        self._rebuild()

    def note_found(self, worker: Worker) -> None:
        """A probe was answered."""
        worker.health.note_answered(self._now_s())
        if self._lost.get(worker.peer_id) is worker:
            self._use(self._lost.pop(worker.peer_id))
            self._rebuild()
        else:
            self.on_change()

    def models(self) -> list[ModelEntry]:
        """One entry per model, over all its workers."""
        by_model: dict[str, list[CapabilityRecord]] = {}
        for worker in self._workers.values():
            for model in {card.id for card in worker.record.models}:
                by_model.setdefault(model, []).append(worker.record)
        return [self._entry(model, records) for model, records in sorted(by_model.items())]

    def has_known(self, model: str) -> bool:
        """Whether any worker has ever announced this model to us."""
        return model in self._first_seen_s

    def known_models(self) -> tuple[str, ...]:
        return tuple(self._first_seen_s)

    def _take_in(self, records: Iterable[CapabilityRecord]) -> bool:
        """Returns whether that changed anything."""
        changed = [record for record in records if self._take_in_one(record)]
        if changed:
            self._forget_models()
        return bool(changed)

    def _take_in_one(self, record: CapabilityRecord) -> bool:
        if (lost := self._lost.get(record.peer_id)) is not None:
            if record.sequence <= lost.record.sequence:
                return False
            self._use(self._lost.pop(record.peer_id))
        worker = self._workers.get(record.peer_id)
        if worker is not None and worker.record is record:
            return False
        self._note_models(record)
        if worker is None:
            known = self._gone.pop(record.peer_id, None)
            worker = self._use(known or Worker(record))
        if record.sequence > worker.record.sequence:
            worker.health.note_announced(self._now_s())
        worker.record = record
        return True

    def _use(self, worker: Worker) -> Worker:
        """From now on."""
        worker.since_unix_s = self._unix_s()
        self._workers[worker.peer_id] = worker
        return worker

    def _has_looked_up(self, model: str) -> bool:
        return self._now_s() - self._looked_up_s.get(model, float("-inf")) < LOOK_UP_AGAIN_S

    def _put_away(self, worker: Worker) -> None:
        self._gone[worker.peer_id] = worker
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

    def _note_loads(self, records: Iterable[LoadRecord]) -> None:
        """Each once: what was read before says nothing new, whatever the worker's clock and ours make of its age."""
        now_s, unix_s = self._now_s(), self._unix_s()
        seen, self._loads_seen = self._loads_seen, {}
        for record in records:
            worker = self._workers.get(record.peer_id)
            if worker is None:
                continue
            self._loads_seen[record.peer_id] = record.sequence
            if seen.get(record.peer_id) == record.sequence:
                continue
            age_s = unix_s - record.load.sampled_ms / 1000
            if age_s < 0:  # its clock is ahead; but the last refresh did not have it yet
                age_s = self._refresh_interval_s
            sampled_s = now_s - age_s
            worker.note_load(record.load, sampled_s)
            worker.heard_s = max(worker.heard_s, sampled_s)

    def _rebuild(self) -> None:
        self.roster = Roster(self._workers.values())
        self.on_change()

    def _note_models(self, record: CapabilityRecord) -> None:
        for card in record.models:
            self._first_seen_s.setdefault(card.id, int(self._unix_s()))

    def _forget_models(self) -> None:
        """The oldest of those that nobody announces now: a name costs its inventor nothing."""
        surplus = len(self._first_seen_s) - MAX_KNOWN_MODELS
        if surplus <= 0:
            return
        announced = (*self._workers.values(), *self._lost.values())
        running = {card.id for worker in announced for card in worker.record.models}
        for model in [model for model in self._first_seen_s if model not in running][:surplus]:
            del self._first_seen_s[model]

    def _entry(self, model: str, records: list[CapabilityRecord]) -> ModelEntry:
        cards = [card for record in records for card in record.models if card.id == model]
        return ModelEntry(
            id=model,
            created_s=self._first_seen_s[model],
            workers=len(records),
            context_length=max(card.context_length for card in cards),
            digests=tuple(sorted({card.digest for card in cards})),
            tasks=tuple(sorted({card.task for card in cards})),
            features=tuple(sorted({feature for card in cards for feature in card.features})),
            quantizations=tuple(sorted({card.quantization for card in cards})),
            dtypes=tuple(sorted({card.dtype for card in cards})),
            is_warm=not all(card.is_cold for card in cards),
        )
