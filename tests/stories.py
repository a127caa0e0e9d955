"""What the tests of the network half share: a clock that tests move, known peers, their records, bounded waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from p2pnet.identity import Identity
from p2pnet.messages import GenerateRequest, Load, TextPrompt
from p2pnet.network.interface import StoredValue, key_id
from p2pnet.records import SIGNATURE_DOMAIN, CapabilityRecord, LoadRecord, ModelCard, Record, StageRecord

NOW_MS = 1_800_000_000_000
LIFETIME_MS = 180_000
DIGEST = "sha256:" + "ab" * 32

MAX_TURNS = 2_000
"""Turns of the event loop within which anything that needs no time must have happened."""


class ManualClock:
    """Milliseconds since 1970 that pass when a test says so."""

    def __init__(self, now_ms: int = NOW_MS) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)


async def settle(is_so: Callable[[], bool], max_turns: int = MAX_TURNS) -> None:
    """Let the event loop turn until `is_so`. Fails when that takes more turns than anything here needs."""
    for _ in range(max_turns):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError(f"still not so after {max_turns} turns of the event loop")


async def settle_threads(is_so: Callable[[], bool], max_turns: int) -> None:
    """The same where other threads have to get on: each turn goes through one, for an event loop that never waits
    holds the interpreter's lock, and a model's step asks for it a hundred times."""
    for _ in range(max_turns):
        if is_so():
            return
        await asyncio.to_thread(bool)
    raise AssertionError(f"still not so after {max_turns} turns of the event loop")


def peer(name: str) -> Identity:
    """The identity of a name: the same name, the same peer id."""
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


def address_of(identity: Identity) -> str:
    return f"/ip4/203.0.113.7/tcp/31337/p2p/{identity.peer_id}"


def card(model: str = "tiny", **changes: Any) -> ModelCard:
    return msgspec.structs.replace(ModelCard(model, DIGEST, 512, features=("chat", "text")), **changes)


def capability(identity: Identity, *models: str, issued_ms: int = NOW_MS, **changes: Any) -> CapabilityRecord:
    """A record as a healthy worker announces it. `changes` are its fields; the expiry follows `issued_ms`."""
    record = CapabilityRecord(
        peer_id=identity.peer_id,
        sequence=issued_ms,
        issued_ms=issued_ms,
        expires_ms=issued_ms + LIFETIME_MS,
        models=tuple(card(model) for model in models or ("tiny",)),
        addresses=(address_of(identity),),
        protocols=("/p2pnet/generate/1", "/p2pnet/status/1"),
        agent="p2pnet/0.1.0",
    )
    return msgspec.structs.replace(record, **changes)


def load_record(identity: Identity, issued_ms: int = NOW_MS, **changes: Any) -> LoadRecord:
    record = LoadRecord(identity.peer_id, issued_ms, issued_ms, issued_ms + 30_000, Load(1, 2, 3))
    return msgspec.structs.replace(record, **changes)


def stage_record(identity: Identity, first: int = 0, last: int = 12, **changes: Any) -> StageRecord:
    """Layers of a model of 24, as a healthy stage announces them."""
    addresses = (address_of(identity),)
    record = StageRecord(
        identity.peer_id, NOW_MS, NOW_MS, NOW_MS + 30_000, DIGEST, first, last, 24, addresses, 4096, 12.5
    )
    return msgspec.structs.replace(record, **changes)


def fields_of(record: Record) -> dict[str, Any]:
    """The record as it travels, for an attacker to change at will."""
    fields: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(record))
    return fields


def signed(identity: Identity, payload: Any, domain: str = SIGNATURE_DOMAIN, **envelope: Any) -> bytes:
    """Sign anything, as a hostile peer may: `payload` is bytes, or what becomes msgpack."""
    raw = payload if isinstance(payload, bytes) else msgspec.msgpack.encode(payload)
    return msgspec.msgpack.encode({"payload": raw, "signature": identity.sign(domain, raw), **envelope})


def stored(key: str, subkey: str, sealed: bytes, expires_ms: int) -> StoredValue:
    return StoredValue(key_id(key), subkey, sealed, expires_ms)


def ask(model: str = "echo", text: str = "one two three", **fields: Any) -> GenerateRequest:
    return GenerateRequest(fields.pop("request_id", "request-1"), model, TextPrompt(text), **fields)
