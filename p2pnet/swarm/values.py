"""Leaves values in the DHT that only members of a swarm find and read, and reads what other members have left.

Knows nothing of what a value means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from p2pnet.directory import entries_for, private_key
from p2pnet.errors import RecordRefused
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Entry, Network, StoredValue
from p2pnet.records import PrivateRecord, open_record, seal
from p2pnet.swarm.certificates import Certificate
from p2pnet.swarm.membership import OwnCertificate
from p2pnet.swarm.register import Register
from p2pnet.swarm.secret import SwarmSecret

MAX_MEMBER_VALUE_BYTES = 3_584
"""Of what a member stores: with certificate, seal and envelope around it, a record has at most MAX_RECORD_BYTES, as
everybody's has."""


class Boxed(msgspec.Struct, frozen=True, array_like=True):
    """What is sealed in a record's box: who says it is a member, and what it says."""

    certificate: Certificate
    value: bytes


@dataclass(frozen=True)
class MemberValue:
    """One value that a member has left."""

    peer_id: str
    certificate: Certificate
    value: bytes
    expires_ms: int


_decode_boxed = msgspec.msgpack.Decoder(Boxed).decode


class MemberValues:
    """Those of one swarm, as one of its members stores and reads them."""

    def __init__(
        self,
        network: Network,
        identity: Identity,
        certificate: OwnCertificate,
        secret: SwarmSecret,
        register: Register,
        now_ms: Clock,
    ) -> None:
        self._network = network
        self._identity = identity
        self._certificate = certificate
        self._secret = secret
        self._register = register
        self._now_ms = now_ms

    @property
    def peer_id(self) -> str:
        return self._identity.peer_id

    async def put(self, entries: Sequence[Entry]) -> int:
        """Store entries under keys that only members find. Returns how many were accepted by at least one peer. Raises
        RecordRefused for a value of more than MAX_MEMBER_VALUE_BYTES."""
        return await self._network.store([private for entry in entries for private in self._sealed(entry)])

    def name_of(self, key: str) -> str:
        """Under which key strangers store what lies under this one."""
        return private_key(self._secret.blinded(key))

    async def get(self, keys: Sequence[str]) -> dict[str, list[MemberValue]]:
        """What members have left under each key. What is of anybody else, or cannot be read, is left out."""
        blinded = {key: self._secret.blinded(key) for key in keys}
        found = await self._network.fetch([private_key(name) for name in blinded.values()])
        return {
            key: [value for stored in found[private_key(name)] if (value := self._opened(name, stored)) is not None]
            for key, name in blinded.items()
        }

    def _sealed(self, entry: Entry) -> list[Entry]:
        peer_id = self._identity.peer_id
        blinded = self._secret.blinded(entry.key)
        boxed = msgspec.msgpack.encode(Boxed(self._certificate.newest, entry.value))
        record = PrivateRecord(
            peer_id=peer_id,
            issued_ms=min(self._now_ms(), entry.expires_ms - 1),
            expires_ms=entry.expires_ms,
            blinded_key=blinded,
            box=self._secret.seal(boxed, box_context(blinded, peer_id)),
        )
        return entries_for(record, seal(record, self._identity))

    def _opened(self, blinded: bytes, stored: StoredValue) -> MemberValue | None:
        try:
            record = open_record(stored.value, self._now_ms())
        except RecordRefused:
            return None
        if not isinstance(record, PrivateRecord):
            return None
        plain = self._secret.open(record.box, box_context(blinded, record.peer_id))
        if plain is None:
            return None
        try:
            boxed = _decode_boxed(plain)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        if not self._register.has(boxed.certificate, record.peer_id):
            return None
        return MemberValue(record.peer_id, boxed.certificate, boxed.value, record.expires_ms)


def box_context(blinded_key: bytes, peer_id: str) -> str:
    """What a record's box is bound to: nobody can put it under another key, or say that it is theirs."""
    return f"record {blinded_key.hex()} {peer_id}"
