"""The peer table: the workers that this gateway may use, those that it has lost, and newcomers.

Owns which workers are in and which have been lost. Chooses nothing (see `gateway.routing.choose`), asks no worker
(see `gateway.membership.probing`): a newcomer is in once it has answered.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence

from gateway.interface import ModelEntry
from gateway.membership.crawl import CRAWL_INTERVAL_S, CRAWLED_WHOLE, Crawl
from gateway.membership.gone import Gone
from gateway.membership.known_models import KnownModels, Remembered
from gateway.membership.look_ups import LookUps
from gateway.membership.newcomers import Newcomers
from gateway.peers.flags import Flags
from gateway.peers.worker import Worker
from gateway.routing.roster import Roster
from p2pnet.directory import SHARDS, Directory
from p2pnet.records import CapabilityRecord
from p2pnet.wire.exchange import STATUS_PROTOCOL

logger = logging.getLogger(__name__)

MAX_STRANGERS = 4_096
"""Workers that have answered and served nothing yet, some 20 MB. One more takes the place of another one that has
nothing of ours to do, by lot: all of a large network are in for a while, and those that serve stay."""

MAX_TRIED = 16_384
"""Workers that have served. As many have to serve a request first as it would take to push one out."""

FEW_WORKERS = 256
ROSTER_PAUSE_S = 0.0001
"""A roster of more than a few is made anew no sooner than after this for each: newcomers of a large network come many
in a second, and each roster takes milliseconds."""

MAX_MET = 8
"""Newcomers that are asked at once for a request, which waits until one of them has answered."""

MAX_MET_AT_START = 32
"""Newcomers that a gateway that has just started asks before it says that it is ready."""

MAX_LOOK_UPS = 8
"""Models looked up at the same time. What clients ask for are strangers' words, and each costs messages to some ten
peers: with more at once, the next refresh has to do."""

LOOK_UP_TICK_S = 0.25
"""How often it is looked which models are due."""

Monotonic = Callable[[], float]


async def _meet_nobody(newcomers: Sequence[Worker], enough: int) -> None:
    """Where nobody probes, nobody is met."""


class PeerTable:
    """All workers by peer id, and the roster to choose from. `on_change` is called after a change of the roster.
    `meet` has newcomers asked whether they are there: it returns once `enough` of them are, or all have been asked.
    `waited_for` says for which models requests wait."""

    def __init__(
        self,
        directory: Directory,
        now_s: Monotonic = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        crawl_interval_s: float = CRAWL_INTERVAL_S,
        remembered: Remembered | None = None,
        rng: random.Random | None = None,
        flags: Flags | None = None,
    ) -> None:
        self.flags = Flags(unix_s=unix_s) if flags is None else flags
        self.flags.listen(self._rebuild)
        remembered = remembered or Remembered()
        self._directory = directory
        self._now_s = now_s
        self._unix_s = unix_s
        self._crawl = Crawl(crawl_interval_s)
        self._has_served = remembered.has_served
        self._rng = rng or random.Random()
        self.newcomers = Newcomers(self._worker_of, self._rng)
        self._workers: dict[str, Worker] = {}
        self._lost: dict[str, Worker] = {}
        self._gone = Gone()
        self._looking_up: dict[str, asyncio.Event] = {}
        self._look_ups = LookUps()
        self._models = KnownModels(remembered.models, unix_s)
        self._known = 0
        self._roster = Roster(())
        self._listed_for = self._roster
        self._listed: Sequence[ModelEntry] = []
        self._made_s = float("-inf")
        self._is_outdated = False
        self.on_change: Callable[[], None] = lambda: None
        self.meet: Callable[[Sequence[Worker], int], Awaitable[None]] = _meet_nobody
        self.waited_for: Callable[[], Collection[str]] = tuple
        self.has_refreshed = False

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those in use, in no order."""
        return tuple(self._workers.values())

    @property
    def lost(self) -> tuple[Worker, ...]:
        """Those that are announced and did not answer."""
        return tuple(self._lost.values())

    @property
    def roster(self) -> Roster:
        """Of those in use that are not flagged. Of very many it may be a moment old."""
        pause_s = ROSTER_PAUSE_S * len(self._workers) if len(self._workers) > FEW_WORKERS else 0.0
        if self._is_outdated and self._now_s() - self._made_s >= pause_s:
            self._roster = Roster(self._unflagged())
            self._made_s, self._is_outdated = self._now_s(), False
        return self._roster

    def get(self, peer_id: str) -> Worker | None:
        return self._workers.get(peer_id)

    @property
    def announced(self) -> int:
        """How many workers the network has: of a large one those found are a part. A small one is read whole."""
        return self._known if self._known <= CRAWLED_WHOLE else max(self._known, self._directory.announced)

    @property
    def known(self) -> int:
        """How many of them have been found: in use, lost, or still to be met."""
        return self._known

    async def keep_fresh(self) -> None:
        """Crawl through the list of all workers for ever. Runs as a task for as long as the gateway does."""
        while True:
            try:
                await self.refresh(self._crawl.due(self._known))
            except Exception:  # the edge: one bad refresh must not be the last one
                logger.exception("the directory could not be read")
            await asyncio.sleep(self._crawl.pause_s(self._known))

    async def keep_looking_up(self) -> None:
        """Look up what clients ask for, for ever, one model after the other."""
        while True:
            for model in self._look_ups.due(self.waited_for(), self._now_s())[:1]:
                await self._read_one(model)
                await self._has_met(model)
            await asyncio.sleep(LOOK_UP_TICK_S)

    def want(self, model: str) -> None:
        """A client asks for it: from now on it is looked up by itself."""
        self._look_ups.want(model, self._now_s())

    async def refresh(self, shards: Sequence[int] = range(SHARDS)) -> None:
        """Read the list of all workers, or a part of it. The first time newcomers are met before anybody is told that
        it was read."""
        self.flags.expire()
        records = {record.peer_id: record for record in _usable(await self._directory.workers(self, shards))}
        self._known = len(records)
        gone = [worker for worker in self._workers.values() if worker.peer_id not in records]
        for worker in gone:
            self._put_away(self._workers.pop(worker.peer_id))
        for worker in [worker for worker in self._lost.values() if worker.peer_id not in records]:
            self._put_away(self._lost.pop(worker.peer_id))
        self.newcomers.keep(records.keys())
        if self._take_in(records.values()) or gone:
            self._rebuild()
        if not self.has_refreshed:
            newcomers = self.newcomers.next(MAX_MET_AT_START)
            await self.meet(newcomers, len(newcomers))
        self.has_refreshed = True

    async def look_up(self, model: str) -> None:
        """Meet workers of one model: newcomers, or those that the last refresh did not show. Returns once somebody is
        there, or those asked do not answer."""
        if await self._has_met(model):
            return
        await self._read_one(model)
        await self._has_met(model)

    async def _has_met(self, model: str) -> bool:
        """Whether one of the newcomers has answered that announce it."""
        found = self.newcomers.next(MAX_MET, model=model)
        if found:
            await self.meet(found, 1)
        return any(worker.peer_id in self._workers for worker in found)

    async def _read_one(self, model: str) -> None:
        """Ask the directory for one model. Cheap for names that somebody invents: each is asked for once at a time, and
        not again right after."""
        while (under_way := self._looking_up.get(model)) is not None:
            await under_way.wait()
        if self._look_ups.is_known(model, self._now_s()) or len(self._looking_up) >= MAX_LOOK_UPS:
            return
        self._looking_up[model] = asyncio.Event()
        began_s = self._now_s()
        try:
            found = _usable(await self._directory.workers_of(model, self, model in self.waited_for()))
        finally:
            self._looking_up.pop(model).set()
        self._look_ups.note(model, began_s)
        if self._take_in(found, MAX_MET):
            self._rebuild()

    def note_announced(self, worker: Worker, sealed: bytes) -> None:
        """A worker in use has said what it announces now: other models, say, or that it stops."""
        record = self._directory.note(sealed, worker.peer_id)
        if record is None or self._workers.get(worker.peer_id) is not worker:
            return
        if not record.is_online:
            self._put_away(self._workers.pop(worker.peer_id))
        if not record.is_online or self._take_in((record,)):
            self._rebuild()

    def note_lost(self, worker: Worker) -> None:
        """It does not answer: out of the roster until it answers a probe, or, where it has served, announces itself
        anew."""
        self.newcomers.note_silent(worker, self._now_s())
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
        elif self.newcomers.take(worker):
            self._welcome(worker)
        else:
            self.on_change()

    def models(self) -> Sequence[ModelEntry]:
        """One entry per model, over all its workers that are not flagged."""
        return self._models.listed(self.roster, (worker.record for worker in self._unflagged()))

    def has_known(self, model: str) -> bool:
        """Whether any worker that answered has ever announced this model to us, or one does that has not been asked."""
        return model in self._models or self.newcomers.announce(model)

    def known_models(self) -> tuple[str, ...]:
        return self._models.names

    def __contains__(self, peer_id: object) -> bool:
        """Whether it has ever answered."""
        return peer_id in self._workers or peer_id in self._lost

    def _take_in(self, records: Iterable[CapabilityRecord], room: int = 0) -> bool:
        """Returns whether that changed anything of those in use. Who is not known has to answer first: for so many
        there is always room."""
        known: list[CapabilityRecord] = []
        unknown: list[CapabilityRecord] = []
        for record in records:
            (known if record.peer_id in self or record.peer_id in self._gone else unknown).append(record)
        self.newcomers.offer(unknown, self._now_s(), room)
        changed = [record for record in known if self._take_in_one(record)]
        if changed:
            self._forget_models()
        return bool(changed)

    def _take_in_one(self, record: CapabilityRecord) -> bool:
        """Returns whether it changes the roster."""
        is_back = record.peer_id not in self._workers
        if (lost := self._lost.get(record.peer_id)) is not None:
            if record.sequence <= lost.record.sequence:
                return False
            if not lost.is_tried:
                lost.record = record
                return False
            self._use(self._lost.pop(record.peer_id))
        worker = self._workers.get(record.peer_id)
        if worker is not None and worker.record is record:
            return is_back
        self._models.note(record)
        if worker is None:
            worker = self._use(self._gone.take(record.peer_id))
        if record.sequence > worker.record.sequence:
            self._note_load(worker, record)
            if worker.is_tried:
                worker.health.note_announced(self._now_s())
        return worker.note_record(record) or is_back

    def _worker_of(self, record: CapabilityRecord) -> Worker:
        worker = Worker(record)
        worker.health.has_served = self._has_served(record.peer_id)
        self._note_load(worker, record)
        return worker

    def _welcome(self, newcomer: Worker) -> None:
        """It has answered."""
        self._make_room(newcomer.is_tried)
        self._use(newcomer)
        self._forget_models()
        self._rebuild()

    def _make_room(self, is_tried: bool) -> None:
        """For one more of its kind: of strangers those are the first to go that do not answer any more."""
        bound = MAX_TRIED if is_tried else MAX_STRANGERS
        alike = [worker for worker in (*self._lost.values(), *self._workers.values()) if worker.is_tried == is_tried]
        idle = [worker for worker in alike if not worker.in_flight]
        if len(alike) < bound or not idle:
            return
        first = [worker for worker in idle if worker.peer_id in self._lost] or idle
        gone = self._rng.choice(first).peer_id
        self._lost.pop(gone, None)
        self._workers.pop(gone, None)

    def _use(self, worker: Worker) -> Worker:
        """From now on."""
        worker.since_unix_s = self._unix_s()
        self._models.note(worker.record)
        self._workers[worker.peer_id] = worker
        return worker

    def _put_away(self, worker: Worker) -> None:
        """Strangers have to be met again, if none of ours is there."""
        if not worker.is_tried and not worker.in_flight:
            return
        self._gone.put(worker)

    def _note_load(self, worker: Worker, record: CapabilityRecord) -> None:
        """What a record says of how busy its worker is, or was when it was announced."""
        if record.load is None:
            return
        now_s = self._now_s()
        age_s = self._unix_s() - record.load.sampled_ms / 1000
        sampled_s = now_s - (age_s if age_s >= 0 else CRAWL_INTERVAL_S)  # of a clock that is ahead; it is no older
        worker.note_load(record.load, sampled_s)
        worker.heard_s = max(worker.heard_s, sampled_s)

    def _unflagged(self) -> Iterator[Worker]:
        return (worker for worker in self._workers.values() if worker.peer_id not in self.flags)

    def _rebuild(self) -> None:
        self._is_outdated = True
        self.on_change()

    def _forget_models(self) -> None:
        self._models.forget(worker.record for worker in (*self._workers.values(), *self._lost.values()))


def _usable(records: Iterable[CapabilityRecord]) -> list[CapabilityRecord]:
    """Of workers that can be asked whether they are there."""
    return [record for record in records if STATUS_PROTOCOL in record.protocols]
