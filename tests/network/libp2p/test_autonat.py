"""Identify and AutoNAT as bytes: what is asked, honest answers whole and in pieces, and hostile ones."""

from __future__ import annotations

import random

import pytest
from multiaddr import Multiaddr

from p2pnet.network.libp2p.autonat import DialBack, dial_back, dial_request, dialable, observed_address
from p2pnet.network.libp2p.protobuf import delimited, field, fields_of
from tests.network.libp2p.test_relay import Relay
from tests.stories import peer

ME = peer("me").peer_id
SEEN = "/ip4/11.0.0.9/tcp/40000"
IDENTIFIED = delimited(field(5, b"agent") + field(4, Multiaddr(SEEN).to_bytes()))


def response(status: int) -> bytes:
    return delimited(field(1, 1) + field(3, field(1, status) + field(2, b"because")))


@pytest.mark.parametrize(
    ("reply", "seen"),
    [
        (IDENTIFIED, SEEN),
        (IDENTIFIED + b"more", SEEN),
        (IDENTIFIED[:-1], None),
        (b"", None),
        (delimited(field(5, b"agent")), None),
        (delimited(field(4, b"")), None),
        (delimited(field(4, b"\xff\xff\xff")), None),
        (delimited(field(4, 7)), None),
        (delimited(b"\x0d"), None),
        (b"\xff" * 20, None),
    ],
)
async def test_where_we_are_seen(reply: bytes, seen: str | None) -> None:
    assert await observed_address(Relay(reply)) == seen
    assert await observed_address(Relay(*(bytes([byte]) for byte in reply))) == seen


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (response(0), DialBack.REACHED),
        (delimited(field(1, 1) + field(3, field(3, b"addr"))), DialBack.REACHED),  # proto2: a 0 may be left out
        (response(100), DialBack.NOT_REACHED),
        (response(101), DialBack.NOT_TRIED),
        (response(300), DialBack.NOT_TRIED),
        (response(12345), DialBack.NOT_TRIED),
        (delimited(field(1, 1)), DialBack.NOT_TRIED),
        (delimited(field(3, 5)), DialBack.NOT_TRIED),
        (response(0)[:-1], DialBack.NOT_TRIED),
        (b"", DialBack.NOT_TRIED),
    ],
)
async def test_what_came_of_being_dialled(reply: bytes, outcome: DialBack) -> None:
    stream = Relay(reply)
    assert await dial_back(stream, ME, [SEEN]) is outcome
    assert stream.received == delimited(dial_request(ME, [SEEN]))


def test_what_is_asked() -> None:
    whom = fields_of(fields_of(dial_request(ME, [SEEN]))[2])[1]  # type: ignore[arg-type]
    found = fields_of(whom)  # type: ignore[arg-type]
    assert found[2] == Multiaddr(SEEN).to_bytes()
    assert found[1] == bytes.fromhex("002408011220") + peer("me")._public_bytes


async def test_junk_is_never_an_answer_nor_an_error() -> None:
    chance = random.Random(7)
    for _ in range(2000):
        junk = chance.randbytes(chance.randrange(40))
        await observed_address(Relay(delimited(junk)))
        assert await dial_back(Relay(junk), ME, [SEEN]) in DialBack


def test_where_we_can_be_dialled() -> None:
    own = (
        f"/ip4/10.0.0.2/tcp/31337/p2p/{ME}",
        f"/ip4/11.0.0.9/tcp/31337/p2p/{ME}",
        f"/ip4/10.0.0.2/udp/31338/quic-v1/p2p/{ME}",
        f"/ip6/fd00::1/tcp/31337/p2p/{ME}",
        f"/ip4/11.0.0.1/tcp/1/p2p/{ME}/p2p-circuit/p2p/{ME}",
    )
    assert dialable(SEEN, own) == {
        "TCP": ("/ip4/11.0.0.9/tcp/31337",),
        "QUIC": ("/ip4/11.0.0.9/udp/31338/quic-v1",),
    }
    assert dialable(SEEN, ()) == {}
