"""The directory: the part of the DHT that maps models to the records of their workers.

Owns the names of its keys, which record may sit on which key, how a worker announces and withdraws, and how a reader
picks the newest record. Knows nothing of sockets, nor of who is worth asking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from p2pnet.errors import RecordRefused
from p2pnet.network.interface import Clock, Entry, Network, StoredValue, Validator, key_id
from p2pnet.records import CapabilityRecord, LoadRecord, Record, open_record

SHARDS = 16
"""Over how many keys the list of all workers is spread: one dictionary of the DHT travels in one reply under 4 MiB,
which holds a thousand records of the largest size."""

EXPIRY_GRACE_MS = 10_000
"""How long after its expiry a stored record is still tolerated: hivemind refuses a whole dictionary for one bad entry,
so peers whose clocks differ by a few seconds must not see each other's as bad. Readers drop expired ones themselves."""


def model_key(model: str) -> str:
    """Where the capability records of a model's workers are."""
    return f"p2pnet/1/model/{model}"


def worker_key(shard: int) -> str:
    """Where the capability records of one share of all workers are."""
    return f"p2pnet/1/workers/{shard}"


def load_key(shard: int) -> str:
    """Where the load records of one share of all workers are."""
    return f"p2pnet/1/load/{shard}"


def shard_of(peer_id: str) -> int:
    return hashlib.sha1(peer_id.encode()).digest()[0] % SHARDS


def keys_of(record: Record) -> tuple[str, ...]:
    """The keys a record belongs on: these, and no others."""
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

    def __init__(self, network: Network, now_ms: Clock) -> None:
        self._network = network
        self._now_ms = now_ms
        self._newest: dict[tuple[type[Record], str], Record] = {}

    async def workers(self) -> tuple[CapabilityRecord, ...]:
        """All workers that are online: those found now, and those found before whose records have not expired."""
        await self._read([worker_key(shard) for shard in range(SHARDS)], CapabilityRecord)
        return self._online()

    async def workers_of(self, model: str) -> tuple[CapabilityRecord, ...]:
        """The workers that announce one model."""
        await self._read([model_key(model)], CapabilityRecord)
        return tuple(worker for worker in self._online() if any(card.id == model for card in worker.models))

    async def loads(self) -> dict[str, LoadRecord]:
        """The load of all workers, by peer id."""
        await self._read([load_key(shard) for shard in range(SHARDS)], LoadRecord)
        return {record.peer_id: record for record in self._newest.values() if isinstance(record, LoadRecord)}

    async def _read(self, keys: Sequence[str], kind: type[Record]) -> None:
        """Remember the newest record of each peer: one empty answer of the DHT takes nothing from what was known."""
        for stored in (value for values in (await self._network.fetch(keys)).values() for value in values):
            try:
                record = open_record(stored.value, self._now_ms())
            except RecordRefused:
                continue
            known = self._newest.get((kind, record.peer_id))
            if isinstance(record, kind) and (known is None or known.sequence < record.sequence):
                self._newest[kind, record.peer_id] = record
        now_ms = self._now_ms()
        self._newest = {key: record for key, record in self._newest.items() if record.expires_ms > now_ms}

    def _online(self) -> tuple[CapabilityRecord, ...]:
        capabilities = (record for record in self._newest.values() if isinstance(record, CapabilityRecord))
        return tuple(sorted((record for record in capabilities if record.is_online), key=lambda record: record.peer_id))
