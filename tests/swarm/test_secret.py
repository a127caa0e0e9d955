"""The swarm's secret: what it seals opens only as it was sealed, and names are blinded."""

from __future__ import annotations

import pytest

from p2pnet.swarm.secret import NONCE_BYTES, TAG_BYTES, SwarmSecret

SECRET = SwarmSecret(bytes(range(32)))
OTHER = SwarmSecret(bytes(32))
BOX = SECRET.seal(b"hello", "here", bytes(NONCE_BYTES))


def test_what_is_sealed_opens_again() -> None:
    assert SECRET.open(BOX, "here") == b"hello"
    assert len(BOX) == len(b"hello") + NONCE_BYTES + TAG_BYTES
    assert SECRET.seal(b"hello", "here") != SECRET.seal(b"hello", "here"), "each has a nonce of its own"


@pytest.mark.parametrize(
    ("secret", "box", "context"),
    [
        (OTHER, BOX, "here"),
        (SECRET, BOX, "there"),
        (SECRET, BOX[:-1], "here"),
        (SECRET, BOX + b"\0", "here"),
        (SECRET, b"", "here"),
        (SECRET, BOX[: NONCE_BYTES + TAG_BYTES - 1], "here"),
        *((SECRET, BOX[:at] + bytes([BOX[at] ^ 1]) + BOX[at + 1 :], "here") for at in range(len(BOX))),
    ],
)
def test_nothing_else_opens(secret: SwarmSecret, box: bytes, context: str) -> None:
    assert secret.open(box, context) is None


def test_a_name_is_blinded_in_one_way_by_each_secret() -> None:
    names = [SECRET.blinded("a"), SECRET.blinded("b"), OTHER.blinded("a"), OTHER.blinded("b")]
    assert len(set(names)) == 4
    assert names[0] == SwarmSecret(bytes(range(32))).blinded("a")
