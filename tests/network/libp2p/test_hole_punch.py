"""The messages of hole punching, byte by byte, and hostile ones."""

from __future__ import annotations

import random

import pytest

from p2pnet.network.libp2p.hole_punch import MAX_CANDIDATES, addresses_in, connect, is_sync, sync

QUIC = "/ip4/203.0.113.7/udp/8081/quic-v1"
PACKED = bytes.fromhex("04cb00710791021f91cd03")


def test_the_messages() -> None:
    assert connect([QUIC]) == b"\x0f\x08\x64\x12" + bytes([len(PACKED)]) + PACKED
    assert sync() == b"\x03\x08\xac\x02"
    assert is_sync(sync()[1:])
    assert not is_sync(connect([QUIC])[1:])


def test_the_addresses_are_read_as_they_were_written() -> None:
    assert addresses_in(connect([QUIC, "/ip6/2606:4700::1/udp/1/quic-v1"])[1:]) == (
        QUIC,
        "/ip6/2606:4700::1/udp/1/quic-v1",
    )
    assert addresses_in(connect([])[1:]) == ()
    many = [f"/ip4/203.0.113.{n}/udp/1/quic-v1" for n in range(100)]
    assert addresses_in(connect(many)[1:]) == tuple(many[:MAX_CANDIDATES])


@pytest.mark.parametrize(
    "message",
    [b"", sync()[1:], b"\x08", b"\x0d", b"\x08\x64" + b"\x12\x00" * 100],
    ids=["nothing", "a sync", "cut off", "another wire type", "more than anybody names"],
)
def test_what_names_no_addresses(message: bytes) -> None:
    with pytest.raises(ValueError):  # what it says is for nobody
        addresses_in(message)


def test_what_is_no_address_is_left_out() -> None:
    assert addresses_in(b"\x08\x64\x12\x02\xff\xff\x12" + bytes([len(PACKED)]) + PACKED + b"\x10\x05") == (QUIC,)


def test_any_bytes_are_a_message_or_none() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        message = rng.randbytes(rng.randrange(60))
        is_sync(message)
        try:
            assert len(addresses_in(message)) <= MAX_CANDIDATES
        except ValueError:
            continue
