"""Encodes and decodes the questions and answers of hivemind's DHT, each bounded before it is looked at.

The numbers of the fields are those of hivemind's `dht.proto`; those from 16 on are ours, and a plain node of hivemind's
passes over them. Knows nothing of what is stored, nor of who asks.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from p2pnet.network.dht.contact import ID_BYTES, MAX_ADDRESS_BYTES, MAX_ADDRESSES_OF_A_NODE, Contact, id_of, packed_id
from p2pnet.network.libp2p.protobuf import each_field, field, fixed_64

MAX_KEYS = 32
"""Keys of one question. A worker's record lies on one key for each of its 32 models at most, and on two more: those go
in two questions."""

MAX_REQUEST_BYTES = 256 << 10
"""A question that stores MAX_KEYS of the largest values has 136 KiB."""

MAX_RESPONSE_BYTES = 4 << 20
"""hivemind's own bound on an answer."""

MAX_VALUE_BYTES = 4096 + 16
"""A stored value: a record of the largest size, and how msgpack wraps it."""

MAX_SUBKEY_BYTES = 64
"""A stored value's subkey: a peer id in msgpack has 54."""

MAX_NEAREST = 20
"""Contacts believed from one answer for one key: no honest one names more than Kademlia's k."""

MAX_FIELDS = 512
"""Of one message: the largest honest one stores MAX_KEYS values, with five fields each."""

FOUND_NOTHING, FOUND_PLAIN, FOUND_DICTIONARY = range(3)


class Malformed(ValueError):
    """It is no message, or more than any honest peer sends."""


@dataclass(frozen=True)
class Sender:
    """What a peer says of itself in each message: its node id, none where it only asks, and where it can be dialled."""

    node_id: int | None = None
    addresses: tuple[bytes, ...] = ()

    def contact(self, peer: bytes) -> Contact | None:
        """The node that this is, when `peer` has said it. None for who only asks, and for ids that are not its own."""
        return Contact(peer, self.addresses) if self.node_id == id_of(peer) else None


@dataclass(frozen=True)
class PingRequest:
    sender: Sender


@dataclass(frozen=True)
class PingResponse:
    """`time_s` is the answering peer's clock, in seconds since 1970; None when it does not say."""

    sender: Sender
    time_s: float | None
    is_available: bool = True


@dataclass(frozen=True)
class Stored:
    """One value as it is stored: key id, subkey and value as they are packed, expiry in seconds since 1970."""

    key: bytes
    subkey: bytes
    value: bytes
    expires_s: float


@dataclass(frozen=True)
class StoreRequest:
    """At most MAX_KEYS values."""

    values: tuple[Stored, ...]
    sender: Sender


@dataclass(frozen=True)
class StoreResponse:
    """For each value, in order, whether it is stored now."""

    accepted: tuple[bool, ...]
    sender: Sender


@dataclass(frozen=True)
class FindRequest:
    """At most MAX_KEYS different key ids. Who wants `nodes_only` is not sent the values."""

    keys: tuple[bytes, ...]
    sender: Sender
    nodes_only: bool = False


@dataclass(frozen=True)
class FindResult:
    """For one key: a packed dictionary of values, empty where there is none, and the nearest nodes that are known.
    `held` is how many values there are, told or not; None of a node that does not say."""

    dictionary: bytes
    nearest: tuple[Contact, ...]
    expires_s: float = 0.0
    held: int | None = None


@dataclass(frozen=True)
class FindResponse:
    """For each key, in order, what is known of it."""

    results: tuple[FindResult, ...]
    sender: Sender


def encode_ping_request(request: PingRequest) -> bytes:
    return field(2, _sender(request.sender))


def decode_ping_request(data: bytes) -> PingRequest:
    return PingRequest(_sender_in(_Fields(data).last_bytes(2)))


def encode_ping_response(response: PingResponse) -> bytes:
    time = b"" if response.time_s is None else fixed_64(4, struct.pack("<d", response.time_s))
    return field(2, _sender(response.sender)) + time + field(5, int(response.is_available))


def decode_ping_response(data: bytes) -> PingResponse:
    fields = _Fields(data)
    time_s = next(reversed(fields.doubles(4)), None)
    is_time = time_s is not None and math.isfinite(time_s)
    return PingResponse(_sender_in(fields.last_bytes(2)), time_s if is_time else None, bool(fields.last(5)))


def encode_store_request(request: StoreRequest) -> bytes:
    values = request.values
    return b"".join(
        [
            *(field(2, stored.key) for stored in values),
            *(field(3, stored.subkey) for stored in values),
            *(field(4, stored.value) for stored in values),
            field(5, struct.pack(f"<{len(values)}d", *(stored.expires_s for stored in values))),
            field(6, bytes(len(values))),  # in_cache: never
            field(7, _sender(request.sender)),
        ]
    )


def decode_store_request(data: bytes) -> StoreRequest:
    fields = _Fields(data)
    columns = fields.all_bytes(2), fields.all_bytes(3), fields.all_bytes(4), fields.doubles(5)
    if {len(column) for column in columns} != {len(columns[0])} or len(columns[0]) > MAX_KEYS:
        raise Malformed(f"not one subkey, value and expiry for each of at most {MAX_KEYS} keys")
    values = tuple(Stored(*parts) for parts in zip(*columns, strict=True))
    for stored in values:
        _check_key(stored.key)
        if len(stored.subkey) > MAX_SUBKEY_BYTES or len(stored.value) > MAX_VALUE_BYTES:
            raise Malformed(f"a value of {len(stored.value)} bytes, {MAX_VALUE_BYTES} allowed")
    return StoreRequest(values, _sender_in(fields.last_bytes(7)))


def encode_store_response(response: StoreResponse) -> bytes:
    return field(2, bytes(response.accepted)) + field(3, _sender(response.sender))


def decode_store_response(data: bytes) -> StoreResponse:
    fields = _Fields(data)
    return StoreResponse(tuple(map(bool, fields.varints(2)))[:MAX_KEYS], _sender_in(fields.last_bytes(3)))


def encode_find_request(request: FindRequest) -> bytes:
    keys = b"".join(field(2, key) for key in request.keys)
    return keys + field(3, _sender(request.sender)) + (field(16, 1) if request.nodes_only else b"")


def decode_find_request(data: bytes) -> FindRequest:
    fields = _Fields(data)
    keys = tuple(dict.fromkeys(fields.all_bytes(2)))
    if len(keys) != len(fields.all_bytes(2)) or len(keys) > MAX_KEYS:
        raise Malformed(f"not at most {MAX_KEYS} different keys")
    for key in keys:
        _check_key(key)
    return FindRequest(keys, _sender_in(fields.last_bytes(3)), bool(fields.last(16)))


def encode_find_response(response: FindResponse) -> bytes:
    return b"".join(field(2, _result(result)) for result in response.results) + field(3, _sender(response.sender))


def decode_find_response(data: bytes) -> FindResponse:
    fields = _Fields(data)
    results = fields.all_bytes(2)
    if len(results) > MAX_KEYS:
        raise Malformed(f"more than {MAX_KEYS} results")
    return FindResponse(tuple(map(_result_in, results)), _sender_in(fields.last_bytes(3)))


def _result(result: FindResult) -> bytes:
    found = b""
    if result.dictionary:
        found = field(1, FOUND_DICTIONARY) + field(2, result.dictionary)
        found += fixed_64(3, struct.pack("<d", result.expires_s))
    return b"".join(
        [
            found,
            *(field(4, packed_id(contact.node_id)) for contact in result.nearest),
            *(field(5, contact.peer) for contact in result.nearest),
            *(field(16, _addresses(contact.addresses)) for contact in result.nearest),
            b"" if result.held is None else field(17, result.held),
        ]
    )


def _result_in(data: bytes) -> FindResult:
    """A plain value counts as none: ours are dictionaries."""
    fields = _Fields(data)
    dictionary = fields.last_bytes(2) if fields.last(1) == FOUND_DICTIONARY else b""
    named = list(zip(fields.all_bytes(4), fields.all_bytes(5), strict=False))[:MAX_NEAREST]
    addresses = [_addresses_in(packed) for packed in fields.all_bytes(16)[:MAX_NEAREST]]
    addresses += [()] * (len(named) - len(addresses))
    claimed = ((node_id, Contact(peer, where)) for (node_id, peer), where in zip(named, addresses, strict=False))
    contacts = (contact for node_id, contact in claimed if node_id == packed_id(contact.node_id))
    return FindResult(dictionary, tuple(contacts), held=next(reversed(fields.all_ints(17)), None))


def _sender(sender: Sender) -> bytes:
    node_id = b"" if sender.node_id is None else field(1, packed_id(sender.node_id))
    return node_id + _addresses(sender.addresses)


def _sender_in(data: bytes) -> Sender:
    node_id = _Fields(data).last_bytes(1)
    if not node_id:
        return Sender()
    _check_key(node_id)
    return Sender(int.from_bytes(node_id, "big"), _addresses_in(data))


def _addresses(addresses: Sequence[bytes]) -> bytes:
    return b"".join(field(16, address) for address in addresses)


def _addresses_in(data: bytes) -> tuple[bytes, ...]:
    addresses = _Fields(data).all_bytes(16)[:MAX_ADDRESSES_OF_A_NODE]
    return tuple(address for address in addresses if len(address) <= MAX_ADDRESS_BYTES)


def _check_key(key: bytes) -> None:
    if len(key) != ID_BYTES:
        raise Malformed(f"an id of {len(key)} bytes, not {ID_BYTES}")


ValueT = TypeVar("ValueT", int, bytes)


class _Fields:
    """The fields of one message, of a stranger's. Raises Malformed when they are not of the type that is asked for."""

    def __init__(self, data: bytes) -> None:
        self._by_number: dict[int, list[int | bytes]] = {}
        try:
            for number, value in each_field(data, MAX_FIELDS):
                self._by_number.setdefault(number, []).append(value)
        except (IndexError, ValueError) as error:
            raise Malformed(str(error)) from error

    def all_bytes(self, number: int) -> list[bytes]:
        return list(self._of(number, bytes))

    def last_bytes(self, number: int) -> bytes:
        return next(reversed(self.all_bytes(number)), b"")

    def all_ints(self, number: int) -> list[int]:
        return list(self._of(number, int))

    def last(self, number: int) -> int:
        return next(reversed(self.all_ints(number)), 0)

    def doubles(self, number: int) -> list[float]:
        """A repeated double, packed or one by one."""
        packed = b"".join(self.all_bytes(number))
        if len(packed) % 8:
            raise Malformed("a double that is cut off")
        return list(struct.unpack(f"<{len(packed) // 8}d", packed))

    def varints(self, number: int) -> list[int]:
        """A repeated truth value, packed or one by one."""
        found = self._by_number.get(number, ())
        return [number for value in found for number in (value if isinstance(value, bytes) else (value,))]

    def _of(self, number: int, kind: type[ValueT]) -> Iterator[ValueT]:
        for value in self._by_number.get(number, ()):
            if not isinstance(value, kind):
                raise Malformed(f"field {number} is of another type")
            yield value
