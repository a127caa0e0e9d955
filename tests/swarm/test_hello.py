"""The first frames of a stream between members: byte by byte, and everything that is no hello."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import msgspec
import pytest

from p2pnet.errors import NotAllowed, NotAMember, P2PNetError, PeerLost, ProtocolViolation
from p2pnet.swarm.hello import MAX_HELLO_BYTES, REFUSAL, Greeter, Hello, answering_context, opening_context
from p2pnet.swarm.register import Register
from p2pnet.swarm.secret import SwarmSecret
from tests.depth import scaled
from tests.stories import NOW_MS, peer
from tests.swarm.members import KITCHEN, LAB, SwarmKeys, certified

ANNA, BOB, EVE = peer("anna"), peer("bob"), peer("eve")
PROTOCOL = "/p2pnet/generate/1"


class Line:
    """A stream of which a test holds the other end: what comes, piece by piece, and what was written."""

    def __init__(self, peer_id: str, *pieces: bytes) -> None:
        self.peer_id = peer_id
        self.pieces = list(pieces)
        self.written = b""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        pass


def greeter(name: str, swarm: SwarmKeys = LAB, revoked: tuple[str, ...] = ()) -> Greeter:
    register = Register(swarm.swarm_id, lambda: NOW_MS)
    register.learn(swarm.revoking(*revoked))
    peer_id = peer(name).peer_id
    return Greeter(peer_id, certified(peer_id, swarm), SwarmSecret(swarm.secret), register)


async def opening(by: str = "anna", to: str = "bob", swarm: SwarmKeys = LAB) -> bytes:
    """What one says who opens a stream."""
    line = Line(peer(to).peer_id, REFUSAL)
    with pytest.raises(NotAllowed):
        await greeter(by, swarm).open(line, PROTOCOL)
    return line.written


async def answer(by: str = "bob", to: str = "anna", swarm: SwarmKeys = LAB) -> bytes:
    line = Line(peer(to).peer_id)
    await greeter(by, swarm).welcome(line)
    return line.written


def cuts(data: bytes) -> list[list[bytes]]:
    """Whole, byte by byte, and with an empty tail of more."""
    return [[data], [data[at : at + 1] for at in range(len(data))], [data[:3], data[3:]]]


async def test_both_ends_prove_that_they_are_members_however_it_is_cut() -> None:
    hello, reply = await opening(), await answer()
    assert max(len(hello), len(reply)) < MAX_HELLO_BYTES // 2
    for pieces in cuts(hello):
        greeted = await greeter("bob").accept(Line(ANNA.peer_id, *pieces))
        assert (greeted.hello.protocol, greeted.ahead) == (PROTOCOL, b"")
        assert greeted.hello.certificate == LAB.invitation().certificate_for(ANNA.peer_id)
    for pieces in cuts(reply):
        greeted = await greeter("anna").open(Line(BOB.peer_id, *pieces), PROTOCOL)
        assert greeted.hello.certificate == LAB.invitation().certificate_for(BOB.peer_id)


async def test_what_comes_behind_a_hello_is_not_lost() -> None:
    assert (await greeter("bob").accept(Line(ANNA.peer_id, await opening() + b"more"))).ahead == b"more"
    assert (await greeter("anna").open(Line(BOB.peer_id, await answer() + b"more"), PROTOCOL)).ahead == b"more"


async def test_a_hello_is_of_no_use_to_anybody_else() -> None:
    """Whoever has copied one has not the key of the peer that it is for, nor of the one that it is to."""
    hello = await opening()
    for acceptor, opener, reason in (
        (greeter("bob"), EVE, "not for this swarm"),
        (greeter("eve"), ANNA, "not for this swarm"),
        (greeter("bob", KITCHEN), ANNA, "not for this swarm"),
        (greeter("bob", revoked=(ANNA.peer_id,)), ANNA, "the peer is revoked"),
    ):
        with pytest.raises(NotAMember, match=reason):
            await acceptor.accept(Line(opener.peer_id, hello))
    with pytest.raises(NotAMember, match="not for this swarm"):
        await greeter("bob").accept(Line(ANNA.peer_id, await answer("anna", "bob")))
    with pytest.raises(ProtocolViolation, match="not for this swarm"):
        await greeter("bob").open(Line(ANNA.peer_id, await opening()), PROTOCOL)


def sealed(plain: bytes) -> Callable[[], bytes]:
    """What somebody says who knows the secret, but is no member: who was one once."""

    def frame() -> bytes:
        body = SwarmSecret(LAB.secret).seal(plain, opening_context(EVE.peer_id, BOB.peer_id))
        return len(body).to_bytes(4, "big") + body

    return frame


OTHERS = LAB.invitation().certificate_for(ANNA.peer_id)
HOSTILE: dict[str, tuple[Callable[[], bytes], type[P2PNetError]]] = {
    "nothing": (lambda: b"", PeerLost),
    "half a length": (lambda: b"\0\0", PeerLost),
    "half a hello": (lambda: sealed(b"")()[:-1], PeerLost),
    "an empty frame": (lambda: REFUSAL, NotAMember),
    "a length of 4 GiB": (lambda: b"\xff" * 4, ProtocolViolation),
    "a byte too long": (lambda: (MAX_HELLO_BYTES + 1).to_bytes(4, "big"), ProtocolViolation),
    "junk": (lambda: (64).to_bytes(4, "big") + random.Random(1).randbytes(64), NotAMember),
    "sealed nothing": (sealed(b""), NotAMember),
    "sealed junk": (sealed(b"\xc1"), NotAMember),
    "sealed, nested deep": (sealed(b"\x91" * 900), NotAMember),
    "another's certificate": (sealed(msgspec.msgpack.encode(Hello(OTHERS, PROTOCOL))), NotAMember),
    "a protocol that is no word": (sealed(msgspec.msgpack.encode([OTHERS, "\x1b[2J"])), NotAMember),
}


@pytest.mark.parametrize(("says", "error"), HOSTILE.values(), ids=HOSTILE)
async def test_what_is_no_hello(says: Callable[[], bytes], error: type[P2PNetError]) -> None:
    line = Line(EVE.peer_id, says())
    with pytest.raises(error):
        await greeter("bob").accept(line)
    assert line.written == b"", "who is no member reads nothing of ours"


async def test_every_bit_of_a_hello_counts() -> None:
    hello = await opening()
    for position in range(32, 8 * len(hello), scaled(ci=7, deep=1)):
        changed = bytearray(hello)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(NotAMember):
            await greeter("bob").accept(Line(ANNA.peer_id, bytes(changed)))


def test_contexts_name_who_says_what_to_whom() -> None:
    assert opening_context("A", "B") == "opener A B"
    assert answering_context("B", "A") == "acceptor B A"
