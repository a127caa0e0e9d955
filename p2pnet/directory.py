"""The directory: the part of the DHT that maps models to the records of their workers.

Owns the names of its keys, which record may sit on which key, what a reader reads of a model or of all workers, and how
it picks the newest record. Knows nothing of sockets, nor of who is worth asking.
"""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from p2pnet.errors import RecordRefused
from p2pnet.model_shards import MAX_LEVEL, Placing, Sampling, shard_key, shard_on
from p2pnet.network.interface import Clock, Entry, Network, StoredValue, Validator, key_id
from p2pnet.records import (
    MAX_PARTS,
    CapabilityRecord,
    LoadRecord,
    ModelCard,
    ModelTask,
    PrivateRecord,
    Record,
    StageRecord,
    open_record,
)

R = TypeVar("R", CapabilityRecord, StageRecord)
Part = tuple[str, int]
"""A peer id, and which of the peer's records."""

SHARDS = 16
"""Over how many keys the list of all workers is spread. It is read by people and by whoever has nothing better to do;
those who look for a model have its own keys, as many as it needs."""

EXPIRY_GRACE_MS = 10_000
"""How long after its expiry a stored record is still tolerated: hivemind refuses a whole dictionary for one bad entry,
so peers whose clocks differ by a few seconds must not see each other's as bad. Readers drop expired ones themselves."""

MAX_RECORDS = 20_000
"""Capability records remembered: 50 MB of usual ones. Where there are more, those of workers that are in use stay, and
it falls to lot which others do: whoever announces itself next has the same chance as who was first."""

MAX_SAMPLINGS = 1_024
"""Models of which it is remembered over how many keys their workers are spread."""


def model_key(model: str) -> str:
    """Where the capability records of a model's workers are, of a popular one the first of them."""
    return shard_key(model, 0, 0)


def worker_key(shard: int) -> str:
    """Where the capability records of one share of all workers are."""
    return f"p2pnet/1/workers/{shard}"


def load_key(shard: int) -> str:
    """Where workers of earlier versions announce how busy they are, for gateways of earlier versions."""
    return f"p2pnet/1/load/{shard}"


def stage_key(digest: str) -> str:
    """Where the records of the stages are that have layers of the model with this digest."""
    return f"p2pnet/1/stage/{digest}"


def private_key(blinded_key: bytes) -> str:
    """Where members of a private swarm leave what only they find. No such key is one of the others: strangers cannot
    fill those with what nobody can read."""
    return f"p2pnet/1/private/{blinded_key.hex()}"


def shard_of(peer_id: str) -> int:
    return hashlib.sha1(peer_id.encode()).digest()[0] % SHARDS


def keys_of(record: Record, placing: Placing | None = None) -> tuple[str, ...]:
    """The keys to announce a record on; each model on the level where its worker has its place."""
    if isinstance(record, PrivateRecord):
        return (private_key(record.blinded_key),)
    if isinstance(record, StageRecord):
        return (stage_key(record.digest),)
    shard = shard_of(record.peer_id)
    if isinstance(record, LoadRecord):
        return (load_key(shard),)
    place = Placing(record.peer_id) if placing is None else placing
    return (worker_key((shard + record.part) % SHARDS), *map(place.key, _models_of(record)))


def all_keys_of(record: Record) -> Iterator[str]:
    """The keys a record may be announced on: those of all levels, and no others."""
    yield from keys_of(record)
    if isinstance(record, CapabilityRecord):
        for level in range(1, MAX_LEVEL + 1):
            shard = shard_on(level, record.peer_id)
            yield from (shard_key(model, level, shard) for model in _models_of(record))


def _models_of(record: CapabilityRecord) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*(card.id for card in record.models), *record.withdrawn)))


def validator(now_ms: Clock) -> Validator:
    """Decides, on every peer, what the DHT may store and return: valid records of their signers, on their own keys."""

    def is_acceptable(stored: StoredValue) -> bool:
        try:
            record = open_record(stored.value, now_ms(), EXPIRY_GRACE_MS)
        except RecordRefused:
            return False
        return (
            stored.subkey == record.peer_id
            and stored.expires_ms == record.expires_ms
            and stored.key_id in map(key_id, all_keys_of(record))
        )

    return is_acceptable


def entries_for(record: Record, sealed: bytes, placing: Placing | None = None) -> list[Entry]:
    return [Entry(key, sealed, record.expires_ms) for key in keys_of(record, placing)]


class Directory:
    """Reads the directory through a network. Remembers the newest record of each peer, or the newest of each of its
    parts, so that none can be replayed."""

    def __init__(self, network: Network, now_ms: Clock, rng: random.Random | None = None) -> None:
        self._network = network
        self._now_ms = now_ms
        self._rng = rng or random.Random()
        self._newest: dict[Part, CapabilityRecord] = {}
        self._samplings: OrderedDict[str, Sampling] = OrderedDict()
        self._stages: dict[str, dict[Part, StageRecord]] = {}
        """By digest: those of the few models that this peer has to do with."""

    async def workers(
        self, in_use: Container[str] = (), shards: Sequence[int] = range(SHARDS)
    ) -> tuple[CapabilityRecord, ...]:
        """All workers that are online: those found now under these keys, of very many a choice by lot, and those found
        before whose records have not expired."""
        await self._read([worker_key(shard) for shard in shards], in_use)
        return self._online()

    @property
    def announced(self) -> int:
        """How many records of workers there are, as most of the peers say that store them: what was found may be a
        part of them. Known as far as all shards have been read."""
        return sum(self._network.held(worker_key(shard)) for shard in range(SHARDS))

    async def workers_of(
        self, model: str, in_use: Container[str] = (), are_others_wanted: bool = False
    ) -> tuple[CapabilityRecord, ...]:
        """The workers that announce one model; of one that thousands announce some hundreds of them, which are others
        for each reader, and the same with each look, unless others are wanted. How many there are it finds out by and
        by, a level with each look."""
        sampling = self._samplings.setdefault(model, Sampling(self._rng.random()))
        self._samplings.move_to_end(model)
        if are_others_wanted:
            sampling.lot = self._rng.random()
        if len(self._samplings) > MAX_SAMPLINGS:
            self._samplings.popitem(last=False)
        keys = sampling.keys(model)
        await self._read(keys, in_use)
        sampling.note(self._network.held(keys[0]))
        return tuple(worker for worker in self._online() if any(card.id == model for card in worker.models))

    async def stages_of(self, digest: str) -> tuple[StageRecord, ...]:
        """The stages that have layers of the model with this digest, and are online."""
        return tuple(record for record in await self.placed(digest) if record.is_ready)

    async def placed(self, digest: str) -> tuple[StageRecord, ...]:
        """The same, and those that are just loading such layers."""
        known = self._stages.setdefault(digest, {})
        self._remember(known, await self._fetch([stage_key(digest)]), StageRecord)
        return tuple(record for record in known.values() if record.is_online and record.digest == digest)

    def note(self, sealed: bytes, peer_id: str) -> CapabilityRecord | None:
        """A worker has said itself what it runs: its whole record as it is known now. None where that is nothing new,
        or not its own."""
        try:
            record = open_record(sealed, self._now_ms())
        except RecordRefused:
            return None
        if not isinstance(record, CapabilityRecord) or record.peer_id != peer_id:
            return None
        if not _is_newer(self._newest, record):
            return None
        self._newest[_part_of(record)] = record
        parts = (self._newest.get((peer_id, part)) for part in range(MAX_PARTS))
        return whole_of([part for part in parts if part is not None])

    async def _read(self, keys: Sequence[str], in_use: Container[str]) -> None:
        self._remember(self._newest, await self._fetch(keys), CapabilityRecord)
        surplus = len(self._newest) - MAX_RECORDS
        if surplus > 0:
            others = [part for part in self._newest if part[0] not in in_use]
            for part in self._rng.sample(others, min(surplus, len(others))):
                del self._newest[part]

    async def _fetch(self, keys: Sequence[str]) -> list[StoredValue]:
        return [stored for values in (await self._network.fetch(keys)).values() for stored in values]

    def _remember(self, known: dict[Part, R], found: Sequence[StoredValue], kind: type[R]) -> None:
        """The newest record of each peer: one empty answer of the DHT takes nothing from what was known."""
        now_ms = self._now_ms()
        for stored in found:
            try:
                record = open_record(stored.value, now_ms)
            except RecordRefused:
                continue
            if isinstance(record, kind) and _is_newer(known, record):
                known[_part_of(record)] = record
        for part in [part for part, record in known.items() if record.expires_ms <= now_ms]:
            del known[part]

    def _online(self) -> tuple[CapabilityRecord, ...]:
        by_peer: dict[str, list[CapabilityRecord]] = {}
        for (peer_id, _), record in self._newest.items():
            by_peer.setdefault(peer_id, []).append(record)
        whole = (whole_of(by_peer[peer_id]) for peer_id in sorted(by_peer))
        return tuple(record for record in whole if record.is_online)


def _part_of(record: CapabilityRecord | StageRecord) -> Part:
    return record.peer_id, record.part if isinstance(record, CapabilityRecord) else 0


def _is_newer(known: Mapping[Part, R], record: R) -> bool:
    before = known.get(_part_of(record))
    return before is None or before.sequence < record.sequence


def whole_of(parts: Sequence[CapabilityRecord]) -> CapabilityRecord:
    """One peer's newest record with the models of its other parts: of those that it still has, and without models that
    a newer part has withdrawn or taken over. A peer whose newest record is offline is."""
    newest_first = sorted(parts, key=lambda record: record.sequence, reverse=True)
    newest = newest_first[0]
    if len(parts) == 1 or not newest.is_online:
        return newest
    current = [record for record in newest_first if record.part < newest.parts]
    models: dict[ModelTask, ModelCard] = {}
    gone: set[str] = set()
    for record in current:
        models = {card.key: card for card in record.models if card.id not in gone} | models
        gone |= set(record.withdrawn)
    return msgspec.structs.replace(newest, models=tuple(models.values()))
