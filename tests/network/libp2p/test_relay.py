"""A relay's answers, byte by byte: honest, cut into pieces, and hostile."""

from __future__ import annotations

import random
from collections import deque

import base58
import pytest

from p2pnet.network.libp2p.delimited import MAX_REPLY_BYTES
from p2pnet.network.libp2p.protobuf import varint
from p2pnet.network.libp2p.relay import FAREWELL, MAX_RELAY_ADDRESSES, GrantedLimits, Reservation, leads_to, reserve
from tests.stories import peer

PEER = peer("worker").peer_id


class Relay:
    """A stream to a relay that answers with these bytes."""

    peer_id = "relay"

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = deque(chunks)
        self.received = b""

    async def read(self) -> bytes:
        return self._chunks.popleft() if self._chunks else b""

    async def write(self, data: bytes) -> None:
        self.received += data

    def close(self) -> None:
        """Nothing to close."""


def hop_status(limit: bytes) -> bytes:
    """HopMessage: type (1) STATUS, limit (4), status (5) OK; its length before it."""
    body = bytes([0x08, 0x02, 0x22, len(limit)]) + limit + bytes([0x28, 0x64])
    return bytes([len(body)]) + body


LIMITED = hop_status(b"\x08" + varint(120) + b"\x10" + varint(128 << 10))
GENEROUS = hop_status(b"\x08" + varint(6 * 3600) + b"\x10" + varint(4 << 30))


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (LIMITED, GrantedLimits(120, 128 << 10)),
        (GENEROUS, GrantedLimits(6 * 3600, 4 << 30)),
        (hop_status(b""), GrantedLimits(None, None)),
        (b"\x02\x08\x02", GrantedLimits(None, None)),
        (b"\x05\x08\x02\x28" + varint(200), None),
        (b"", None),
        (LIMITED[:-1], None),
        (b"\x01\x0d", None),
        (b"\x02\x0d\x00", None),
    ],
)
async def test_what_a_relay_grants(reply: bytes, expected: GrantedLimits | None) -> None:
    relay = Relay(reply)
    assert await reserve(relay) == (None if expected is None else Reservation(expected))
    assert relay.received == b"\x02\x08\x00" + FAREWELL


async def test_an_answer_in_single_bytes_is_the_same() -> None:
    assert await reserve(Relay(*(bytes([byte]) for byte in GENEROUS))) == Reservation(GrantedLimits(6 * 3600, 4 << 30))


async def test_an_answer_without_end_is_given_up() -> None:
    chunks = [b"\xff" * 1024] * (2 * MAX_REPLY_BYTES // 1024)
    assert await reserve(Relay(*chunks)) is None
    assert not await leads_to(Relay(*chunks), PEER)


async def test_any_bytes_are_an_answer_or_none() -> None:
    rng = random.Random(1)
    for _ in range(500):
        answer = rng.randbytes(rng.randrange(1, 60))
        await reserve(Relay(answer))
        await leads_to(Relay(answer), PEER)


def reserved(*addresses: bytes) -> bytes:
    """HopMessage: type (1) STATUS, reservation (3) with expire (1) and addrs (2), status (5) OK."""
    place = b"\x08" + varint(1_800_000_000) + b"".join(b"\x12" + varint(len(each)) + each for each in addresses)
    body = b"\x08\x02\x1a" + varint(len(place)) + place + b"\x28\x64"
    return varint(len(body)) + body


async def test_a_place_is_at_the_addresses_that_the_relay_names() -> None:
    relay = Relay(
        reserved(bytes.fromhex("04cb007107067a69"), b"\xff\xff", b"", bytes.fromhex("04cb00710791021f91cd03"))
    )
    assert await reserve(relay) == Reservation(
        GrantedLimits(None, None), ("/ip4/203.0.113.7/tcp/31337", "/ip4/203.0.113.7/udp/8081/quic-v1"), 1_800_000_000
    )


async def test_a_few_addresses_are_enough() -> None:
    reservation = await reserve(Relay(reserved(*[bytes.fromhex("04cb007107067a69")] * 1000)))
    assert reservation is not None
    assert len(reservation.addresses) == MAX_RELAY_ADDRESSES


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"\x04\x08\x02\x28" + varint(100), True),
        (b"\x05\x08\x02\x28" + varint(204), False),  # NO_RESERVATION
        (b"\x04\x08\x02\x28", False),
        (b"", False),
    ],
)
async def test_whether_a_relay_leads_to_a_peer(reply: bytes, expected: bool) -> None:
    relay = Relay(reply)
    assert await leads_to(relay, PEER) is expected
    packed = base58.b58decode(PEER)
    question = bytes([len(packed) + 6, 0x08, 0x01, 0x12, len(packed) + 2, 0x0A, len(packed)]) + packed
    assert relay.received == question + FAREWELL


async def test_what_comes_of_a_circuit_is_answered_until_it_ends() -> None:
    relay = Relay(b"\x04\x08\x02\x28\x64", b"hello", FAREWELL)
    assert await leads_to(relay, PEER)
    assert relay.received.endswith(3 * FAREWELL), "so that something is left unread at the relay, whenever it looks"
