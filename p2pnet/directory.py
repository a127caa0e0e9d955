"""The directory: the part of the DHT that maps models to the records of their workers.

Owns the names of its keys, which record may sit on which key, how a worker announces and withdraws, and how a reader
picks the newest record. Knows nothing of sockets, nor of who is worth asking.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

import msgspec

from p2pnet.errors import RecordRefused
from p2pnet.network.interface import Clock, Entry, Network, StoredValue, Validator, key_id
from p2pnet.records import (
    CapabilityRecord,
    LoadRecord,
    ModelCard,
    ModelTask,
    PrivateRecord,
    Record,
    StageRecord,
    open_record,
)

R = TypeVar("R", CapabilityRecord, LoadRecord, StageRecord)
Part = tuple[str, int]
"""A peer id, and which of the peer's records."""

SHARDS = 16
"""Over how many keys the list of all workers is spread: one dictionary of the DHT travels in one reply under 4 MiB,
which holds a thousand records of the largest size."""

EXPIRY_GRACE_MS = 10_000
"""How long after its expiry a stored record is still tolerated: hivemind refuses a whole dictionary for one bad entry,
so peers whose clocks differ by a few seconds must not see each other's as bad. Readers drop expired ones themselves."""

MAX_RECORDS = 20_000
"""Capability records remembered: 50 MB of usual ones. Where there are more, those of workers that are in use stay, and
it falls to lot which others do: whoever announces itself next has the same chance as who was first."""


def model_key(model: str) -> str:
    """Where the capability records of a model's workers are."""
    return f"p2pnet/1/model/{model}"


def worker_key(shard: int) -> str:
    """Where the capability records of one share of all workers are."""
    return f"p2pnet/1/workers/{shard}"


def load_key(shard: int) -> str:
    """Where the load records of one share of all workers are."""
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


def keys_of(record: Record) -> tuple[str, ...]:
    """The keys a record belongs on: these, and no others."""
    if isinstance(record, PrivateRecord):
        return (private_key(record.blinded_key),)
    if isinstance(record, StageRecord):
        return (stage_key(record.digest),)
    shard = shard_of(record.peer_id)
    if isinstance(record, LoadRecord):
        return (load_key(shard),)
    models = dict.fromkeys((*(card.id for card in record.models), *record.withdrawn))
    return (worker_key((shard + record.part) % SHARDS), *map(model_key, models))


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
            and stored.key_id in map(key_id, keys_of(record))
        )

    return is_acceptable


def entries_for(record: Record, sealed: bytes) -> list[Entry]:
    return [Entry(key, sealed, record.expires_ms) for key in keys_of(record)]


class Directory:
    """Reads the directory through a network. Remembers the newest record of each peer, or the newest of each of its
    parts, so that none can be replayed."""

    def __init__(self, network: Network, now_ms: Clock, rng: random.Random | None = None) -> None:
        self._network = network
        self._now_ms = now_ms
        self._rng = rng or random.Random()
        self._capabilities: dict[Part, CapabilityRecord] = {}
        self._loads: dict[Part, LoadRecord] = {}
        self._stages: dict[str, dict[Part, StageRecord]] = {}
        """By digest: those of the few models that this peer has to do with."""

    async def workers(self, in_use: Container[str] = ()) -> tuple[CapabilityRecord, ...]:
        """All workers that are online: those found now, and those found before whose records have not expired."""
        await self._read_capabilities([worker_key(shard) for shard in range(SHARDS)], in_use)
        return self._online()

    async def workers_of(self, model: str, in_use: Container[str] = ()) -> tuple[CapabilityRecord, ...]:
        """The workers that announce one model."""
        await self._read_capabilities([model_key(model)], in_use)
        return tuple(worker for worker in self._online() if any(card.id == model for card in worker.models))

    async def loads(self, is_asked_for: Callable[[str], bool] = lambda peer_id: True) -> dict[str, LoadRecord]:
        """The load of all workers, or of those that are asked for, by peer id."""
        found = await self._fetch([load_key(shard) for shard in range(SHARDS)])
        self._remember(self._loads, [stored for stored in found if is_asked_for(stored.subkey)], LoadRecord)
        return {peer_id: record for (peer_id, _), record in self._loads.items()}

    async def stages_of(self, digest: str) -> tuple[StageRecord, ...]:
        """The stages that have layers of the model with this digest, and are online."""
        known = self._stages.setdefault(digest, {})
        self._remember(known, await self._fetch([stage_key(digest)]), StageRecord)
        return tuple(record for record in known.values() if record.is_online and record.digest == digest)

    async def _read_capabilities(self, keys: Sequence[str], in_use: Container[str]) -> None:
        self._remember(self._capabilities, await self._fetch(keys), CapabilityRecord)
        surplus = len(self._capabilities) - MAX_RECORDS
        if surplus > 0:
            others = [part for part in self._capabilities if part[0] not in in_use]
            for part in self._rng.sample(others, min(surplus, len(others))):
                del self._capabilities[part]

    async def _fetch(self, keys: Sequence[str]) -> list[StoredValue]:
        return [stored for values in (await self._network.fetch(keys)).values() for stored in values]

    def _remember(self, newest: dict[Part, R], found: Sequence[StoredValue], kind: type[R]) -> None:
        """The newest record of each peer: one empty answer of the DHT takes nothing from what was known."""
        now_ms = self._now_ms()
        for stored in found:
            try:
                record = open_record(stored.value, now_ms)
            except RecordRefused:
                continue
            part = record.peer_id, record.part if isinstance(record, CapabilityRecord) else 0
            known = newest.get(part)
            if isinstance(record, kind) and (known is None or known.sequence < record.sequence):
                newest[part] = record
        for part in [part for part, record in newest.items() if record.expires_ms <= now_ms]:
            del newest[part]

    def _online(self) -> tuple[CapabilityRecord, ...]:
        by_peer: dict[str, list[CapabilityRecord]] = {}
        for (peer_id, _), record in self._capabilities.items():
            by_peer.setdefault(peer_id, []).append(record)
        whole = (whole_of(by_peer[peer_id]) for peer_id in sorted(by_peer))
        return tuple(record for record in whole if record.is_online)


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
