"""A relay's answer to a reservation, byte by byte: honest, cut into pieces, and hostile."""

from __future__ import annotations

import random
from collections import deque

import pytest

from p2pnet.network.libp2p.delimited import MAX_REPLY_BYTES
from p2pnet.network.libp2p.relay_limits import GrantedLimits, granted_limits


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


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


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
    assert await granted_limits(relay) == expected
    assert relay.received == b"\x02\x08\x00"


async def test_an_answer_in_single_bytes_is_the_same() -> None:
    assert await granted_limits(Relay(*(bytes([byte]) for byte in GENEROUS))) == GrantedLimits(6 * 3600, 4 << 30)


async def test_an_answer_without_end_is_given_up() -> None:
    chunks = [b"\xff" * 1024] * (2 * MAX_REPLY_BYTES // 1024)
    assert await granted_limits(Relay(*chunks)) is None


async def test_any_bytes_are_an_answer_or_none() -> None:
    rng = random.Random(1)
    for _ in range(500):
        await granted_limits(Relay(rng.randbytes(rng.randrange(1, 60))))
