"""What this gateway knows of the workers: what the directory says, plus what it has seen itself.

Owns the refreshing, the counts of requests in flight, and the cooldown of workers that failed. Chooses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway.routing import Candidate
from gateway.service import ModelEntry
from p2pnet.directory import Directory
from p2pnet.records import CapabilityRecord

logger = logging.getLogger(__name__)

REFRESH_INTERVAL_S = 2.0
"""How soon a new worker is seen. One refresh is a handful of small messages to the peers that hold the directory."""

COOLDOWN_S = 2.0
MAX_COOLDOWN_S = 60.0
"""A worker that failed is asked again after 2 s, and after twice as long with each further failure, up to a minute:
a peer that comes back is used soon, one that is gone costs little."""

MAX_KNOWN_MODELS = 10_000
"""Names of models remembered after their workers have gone."""

Monotonic = Callable[[], float]


@dataclass
class _Standing:
    failures_in_row: int = 0
    cooling_until_s: float = 0.0


class PeerTable:
    """The workers this gateway may use."""

    def __init__(
        self,
        directory: Directory,
        now_s: Monotonic = time.monotonic,
        unix_s: Callable[[], float] = time.time,
        refresh_interval_s: float = REFRESH_INTERVAL_S,
    ) -> None:
        self._directory = directory
        self._now_s = now_s
        self._unix_s = unix_s
        self._refresh_interval_s = refresh_interval_s
        self._records: dict[str, CapabilityRecord] = {}
        self._standings: dict[str, _Standing] = {}
        self._in_flight: Counter[str] = Counter()
        self._first_seen_s: dict[str, int] = {}
        self.has_refreshed = False

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
        self._records = {record.peer_id: record for record in await self._directory.workers()}
        self._note_models(list(self._records.values()))
        self._standings = {peer: standing for peer, standing in self._standings.items() if peer in self._records}
        self.has_refreshed = True

    async def look_up(self, model: str) -> None:
        """Ask the directory for the workers of one model that the last refresh did not show."""
        found = await self._directory.workers_of(model)
        self._records |= {record.peer_id: record for record in found}
        self._note_models(found)

    def candidates(self) -> list[Candidate]:
        nobody = _Standing()
        return [
            Candidate(record, self._in_flight[peer], self._standings.get(peer, nobody).cooling_until_s)
            for peer, record in self._records.items()
        ]

    def models(self) -> list[ModelEntry]:
        """One entry per model, over all its workers."""
        by_model: dict[str, list[CapabilityRecord]] = {}
        for record in self._records.values():
            for model in {card.id for card in record.models}:
                by_model.setdefault(model, []).append(record)
        return [self._entry(model, records) for model, records in sorted(by_model.items())]

    def has_known(self, model: str) -> bool:
        """Whether any worker has ever announced this model to us."""
        return model in self._first_seen_s

    @contextlib.contextmanager
    def in_flight(self, peer_id: str) -> Iterator[None]:
        """Count a request for as long as this worker serves it."""
        self._in_flight[peer_id] += 1
        try:
            yield
        finally:
            self._in_flight[peer_id] -= 1
            if not self._in_flight[peer_id]:
                del self._in_flight[peer_id]

    def note_success(self, peer_id: str) -> None:
        self._standings.pop(peer_id, None)

    def note_failure(self, peer_id: str) -> None:
        """Leave this worker alone for a while."""
        standing = self._standings.setdefault(peer_id, _Standing())
        doublings = min(standing.failures_in_row, 16)  # beyond the limit anyway, and a float's range is not
        pause_s = min(MAX_COOLDOWN_S, COOLDOWN_S * 2**doublings)
        standing.failures_in_row += 1
        standing.cooling_until_s = self._now_s() + pause_s

    def _note_models(self, records: Sequence[CapabilityRecord]) -> None:
        for record in records:
            for card in record.models:
                self._first_seen_s.setdefault(card.id, int(self._unix_s()))
        if len(self._first_seen_s) > MAX_KNOWN_MODELS:
            self._forget_models(len(self._first_seen_s) - MAX_KNOWN_MODELS)

    def _forget_models(self, count: int) -> None:
        """The oldest of those that nobody announces now: a name costs its inventor nothing."""
        running = {card.id for record in self._records.values() for card in record.models}
        for model in [model for model in self._first_seen_s if model not in running][:count]:
            del self._first_seen_s[model]

    def _entry(self, model: str, records: Sequence[CapabilityRecord]) -> ModelEntry:
        cards = [card for record in records for card in record.models if card.id == model]
        return ModelEntry(
            id=model,
            created_s=self._first_seen_s[model],
            workers=len(records),
            context_length=max(card.context_length for card in cards),
            digests=tuple(sorted({card.digest for card in cards})),
        )
