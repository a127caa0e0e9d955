"""What a relay reads and writes, byte by byte; and that its answers are those that the asking side understands."""

from __future__ import annotations

import random

import base58
import pytest

from p2pnet.network.libp2p.relay import GrantedLimits, Reservation, leads_to, reserve
from p2pnet.network.libp2p.relay_service import (
    MAX_PEER_ID_BYTES,
    Status,
    circuit_granted,
    circuit_offered,
    is_taken,
    peer_asked_for,
    place_granted,
    status,
)
from tests.network.libp2p.test_relay import Relay
from tests.stories import peer

PEER = peer("worker").peer_id
PACKED = base58.b58decode(PEER)
LIMITS = GrantedLimits(120, 1 << 17)
PACKED_LIMITS = bytes.fromhex("0878 108080 08".replace(" ", ""))


def connect(peer_id: bytes) -> bytes:
    """HopMessage: type (1) CONNECT, peer (2) with id (1)."""
    inner = bytes([0x0A, len(peer_id)]) + peer_id
    return b"\x08\x01\x12" + bytes([len(inner)]) + inner


@pytest.mark.parametrize(
    ("message", "expected"),
    [(b"\x08\x00", None), (connect(PACKED), PEER), (connect(PACKED) + b"\x2a\x02hi", PEER)],
    ids=["a place", "a circuit", "with more than is known"],
)
def test_what_is_asked_for(message: bytes, expected: str | None) -> None:
    assert peer_asked_for(message) == expected


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x08\x02",
        b"\x08\x01",
        b"\x08\x01\x10\x05",
        connect(b""),
        connect(bytes(MAX_PEER_ID_BYTES + 1)),
        connect(PACKED)[:-1],
        b"\x0d",
    ],
    ids=[
        "nothing",
        "a status",
        "no peer",
        "a number for a peer",
        "an empty id",
        "too long an id",
        "cut off",
        "another wire type",
    ],
)
def test_what_asks_for_nothing(message: bytes) -> None:
    with pytest.raises(ValueError):  # what it says is for nobody
        peer_asked_for(message)


def test_any_bytes_ask_for_something_or_are_refused() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        message = rng.randbytes(rng.randrange(50))
        is_taken(message)
        try:
            asked = peer_asked_for(message)
        except ValueError:
            continue
        assert asked is None or len(base58.b58decode(asked)) <= MAX_PEER_ID_BYTES


def test_a_refusal() -> None:
    assert status(Status.NO_RESERVATION) == b"\x05\x08\x02\x28\xcc\x01"


def test_a_circuit_granted() -> None:
    assert circuit_granted(LIMITS) == b"\x0c\x08\x02\x22\x06" + PACKED_LIMITS + b"\x28\x64"


def test_a_circuit_offered() -> None:
    asker = b"\x12" + bytes([len(PACKED) + 2]) + b"\x0a" + bytes([len(PACKED)]) + PACKED
    body = b"\x08\x00" + asker + b"\x1a\x06" + PACKED_LIMITS
    assert circuit_offered(PEER, LIMITS) == bytes([len(body)]) + body


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"\x08\x01\x20\x64", True), (b"\x08\x01\x20\xcb\x01", False), (b"\x08\x00\x20\x64", False), (b"\x08", False)],
    ids=["taken", "refused", "no status", "cut off"],
)
def test_whether_a_circuit_is_taken(answer: bytes, expected: bool) -> None:
    assert is_taken(answer) is expected


async def test_a_place_is_read_as_it_was_granted() -> None:
    address = f"/ip4/203.0.113.7/tcp/31337/p2p/{PEER}"
    granted = place_granted(1_800_000_000, (address,), LIMITS, load_percent=40)
    assert await reserve(Relay(granted)) == Reservation(LIMITS, (address,), 1_800_000_000, 40)
    assert await leads_to(Relay(circuit_granted(LIMITS)), PEER)
    assert await reserve(Relay(status(Status.RESERVATION_REFUSED))) is None
