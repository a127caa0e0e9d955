"""A stream that can be cut: whatever its holder waits for ends, and nothing else is taken for a cut."""

from __future__ import annotations

import asyncio

import pytest

from p2pnet.errors import PeerLost
from p2pnet.swarm.member_stream import MemberStream
from tests.stories import peer, settle
from tests.swarm.members import LAB

BOB = peer("bob")
CERTIFICATE = LAB.invitation().certificate_for(BOB.peer_id)


class Stuck:
    """A stream on which nothing comes or goes until a test lets it."""

    def __init__(self) -> None:
        self.peer_id = BOB.peer_id
        self.gate = asyncio.Event()
        self.waiting = 0
        self.closed = 0

    async def read(self) -> bytes:
        await self._wait()
        return b"data"

    async def write(self, data: bytes) -> None:
        await self._wait()

    def close(self) -> None:
        self.closed += 1

    async def _wait(self) -> None:
        self.waiting += 1
        await self.gate.wait()


def stream(inner: Stuck, ahead: bytes = b"") -> MemberStream:
    return MemberStream(inner, CERTIFICATE, ahead, lambda _: None)


async def test_a_reader_and_a_writer_that_wait_are_ended_together() -> None:
    inner = Stuck()
    cut = stream(inner)
    reading, writing = asyncio.create_task(cut.read()), asyncio.create_task(cut.write(b"more"))
    await settle(lambda: inner.waiting == 2)
    cut.cut()
    cut.cut()
    assert await reading == b""
    with pytest.raises(PeerLost, match="no member of the swarm any more"):
        await writing


async def test_nothing_is_read_or_written_after_a_cut() -> None:
    inner = Stuck()
    inner.gate.set()
    cut = stream(inner, ahead=b"early")
    cut.cut()
    assert await cut.read() == b""
    with pytest.raises(PeerLost):
        await cut.write(b"more")
    assert (inner.waiting, inner.closed) == (0, 0)
    cut.close()
    assert inner.closed == 1


async def test_what_came_early_is_read_first() -> None:
    inner = Stuck()
    inner.gate.set()
    whole = stream(inner, ahead=b"early")
    assert [await whole.read(), await whole.read()] == [b"early", b"data"]


async def test_a_holders_own_patience_and_end_are_no_cut() -> None:
    inner = Stuck()
    held = stream(inner)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await held.read()
    reading = asyncio.create_task(held.read())
    await settle(lambda: inner.waiting == 2)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    inner.gate.set()
    assert await held.read() == b"data"
