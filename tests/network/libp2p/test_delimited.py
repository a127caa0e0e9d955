"""One message behind its length, whole, in pieces, cut off and hostile."""

from __future__ import annotations

import pytest

from p2pnet.network.libp2p.delimited import MAX_REPLY_BYTES, read_message
from p2pnet.network.libp2p.protobuf import delimited, varint
from tests.network.libp2p.test_relay import Relay

LONG = bytes(300)
"""Its length takes two bytes."""


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (delimited(b"message"), b"message"),
        (delimited(b""), b""),
        (delimited(LONG), LONG),
        (delimited(b"first") + delimited(b"second"), b"first"),
        (delimited(b"cut off")[:-1], None),
        (varint(1 << 40) + b"never all of it", None),
        (b"\x80", None),
        (b"\xff" * 20, None),
        (b"", None),
    ],
)
async def test_the_first_message_is_read(sent: bytes, message: bytes | None) -> None:
    assert await read_message(Relay(sent)) == message
    assert await read_message(Relay(*(bytes([byte]) for byte in sent))) == message


async def test_no_more_is_read_than_a_message_may_have() -> None:
    chunks = [varint(1 << 30), *([bytes(1024)] * (2 * MAX_REPLY_BYTES // 1024))]
    relay = Relay(*chunks)
    assert await read_message(relay) is None
    assert await relay.read() != b""
