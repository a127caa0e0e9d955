"""The directory: the part of the DHT that maps models to the records of their workers.

Owns the names of its keys, which record may sit on which key, how a worker announces and withdraws, and how a reader
picks the newest record. Knows nothing of sockets, nor of who is worth asking.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from p2pnet.errors import RecordRefused
from p2pnet.network.interface import Clock, Entry, Network, StoredValue, Validator, key_id
from p2pnet.records import CapabilityRecord, LoadRecord, PrivateRecord, Record, open_record

R = TypeVar("R", CapabilityRecord, LoadRecord)

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
    shard = shard_of(record.peer_id)
    if isinstance(record, LoadRecord):
        return (load_key(shard),)
    models = dict.fromkeys((*(card.id for card in record.models), *record.withdrawn))
    return (worker_key(shard), *map(model_key, models))


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
    """Reads the directory through a network. Remembers the newest record of each peer, so that none can be replayed."""

    def __init__(self, network: Network, now_ms: Clock, rng: random.Random | None = None) -> None:
        self._network = network
        self._now_ms = now_ms
        self._rng = rng or random.Random()
        self._capabilities: dict[str, CapabilityRecord] = {}
        self._loads: dict[str, LoadRecord] = {}

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
        return dict(self._loads)

    async def _read_capabilities(self, keys: Sequence[str], in_use: Container[str]) -> None:
        self._remember(self._capabilities, await self._fetch(keys), CapabilityRecord)
        surplus = len(self._capabilities) - MAX_RECORDS
        if surplus > 0:
            others = [peer_id for peer_id in self._capabilities if peer_id not in in_use]
            for peer_id in self._rng.sample(others, min(surplus, len(others))):
                del self._capabilities[peer_id]

    async def _fetch(self, keys: Sequence[str]) -> list[StoredValue]:
        return [stored for values in (await self._network.fetch(keys)).values() for stored in values]

    def _remember(self, newest: dict[str, R], found: Sequence[StoredValue], kind: type[R]) -> None:
        """The newest record of each peer: one empty answer of the DHT takes nothing from what was known."""
        now_ms = self._now_ms()
        for stored in found:
            try:
                record = open_record(stored.value, now_ms)
            except RecordRefused:
                continue
            known = newest.get(record.peer_id)
            if isinstance(record, kind) and (known is None or known.sequence < record.sequence):
                newest[record.peer_id] = record
        for peer_id in [peer_id for peer_id, record in newest.items() if record.expires_ms <= now_ms]:
            del newest[peer_id]

    def _online(self) -> tuple[CapabilityRecord, ...]:
        online = (record for record in self._capabilities.values() if record.is_online)
        return tuple(sorted(online, key=lambda record: record.peer_id))
