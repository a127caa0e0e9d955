"""How the two ends of a stream part: each on a unix socket of its own, with the test in p2pd's place between them.

What p2pd does when its socket ends decides what becomes of the stream: at an end it closes and then resets, which over
QUIC leaks at the other side; at an error it only resets.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from p2pnet.errors import PeerLost
from p2pnet.network.hivemind.p2pd_stream import LENGTH_BYTES, MARK, P2pdStream, RawStream

NewLoop = Callable[[], asyncio.AbstractEventLoop]
Story = Callable[[], Coroutine[Any, Any, None]]

LOOPS: dict[str, NewLoop] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
on_each_loop = pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)


@dataclass(frozen=True)
class End:
    """One end of a stream, and p2pd's side of its socket."""

    stream: P2pdStream
    p2pd: socket.socket
    streams: set[RawStream]
    parting: set[asyncio.Task[None]]

    @classmethod
    async def make(cls, is_opener: bool) -> End:
        ours, p2pd = socket.socketpair()
        p2pd.setblocking(False)
        streams: set[RawStream] = set()
        parting: set[asyncio.Task[None]] = set()

        def in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            task = asyncio.create_task(work)
            parting.add(task)
            return task

        raw = RawStream("peer", *await asyncio.open_connection(sock=ours), on_close=streams.discard)
        streams.add(raw)
        return cls(P2pdStream(raw, is_opener, in_background), p2pd, streams, parting)

    async def receive(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.p2pd, data)

    async def sent(self, length: int = LENGTH_BYTES) -> bytes:
        """What it has written, so many bytes of it. Raises what p2pd's read raises."""
        loop, data = asyncio.get_running_loop(), b""
        while len(data) < length and (more := await loop.sock_recv(self.p2pd, length - len(data))):
            data += more
        return data

    async def wait_parted(self) -> None:
        await asyncio.gather(*self.parting)
        self.p2pd.close()
        assert not self.streams


def chunk(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def run(loop: NewLoop, story: Story) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())


async def _answered() -> None:
    end = await End.make(is_opener=False)
    await end.receive(chunk(b"question"))
    assert await end.stream.read() == b"question"
    await end.stream.write(b"answer")
    end.stream.close()
    assert await end.sent(14) == chunk(b"answer") + MARK
    await end.receive(2 * MARK)
    assert await end.sent() == MARK, "let go"
    assert len(end.streams) == 1
    await end.receive(MARK)
    with pytest.raises(ConnectionResetError):
        await end.sent()
    await end.wait_parted()


async def _stopped() -> None:
    end = await End.make(is_opener=False)
    await end.receive(chunk(b"question") + MARK)
    assert await end.stream.read() == b"question"
    assert await end.stream.read() == b""
    end.stream.close()
    assert await end.sent() == MARK
    await end.receive(MARK)
    assert await end.sent() == MARK
    await end.receive(MARK)
    with pytest.raises(ConnectionResetError):
        await end.sent()
    await end.wait_parted()


async def _lost() -> None:
    end = await End.make(is_opener=False)
    end.stream.close()
    assert await end.sent() == MARK
    await end.receive(2 * MARK)
    assert await end.sent() == MARK
    end.p2pd.close()
    await end.wait_parted()


async def _closed_while_it_is_read() -> None:
    """Two cannot read one socket at the same time."""
    end = await End.make(is_opener=False)
    reading = asyncio.create_task(end.stream.read())
    await asyncio.sleep(0)
    end.stream.close()
    assert await end.sent() == MARK
    await end.receive(2 * MARK)
    assert await reading == b""
    assert await end.sent() == MARK, "let go"
    await end.receive(MARK)
    with pytest.raises(ConnectionResetError):
        await end.sent()
    await end.wait_parted()


ACCEPTED = {
    "it has answered": _answered,
    "it was stopped": _stopped,
    "p2pd dies": _lost,
    "somebody reads it still": _closed_while_it_is_read,
}


@on_each_loop
@pytest.mark.parametrize("story", ACCEPTED.values(), ids=ACCEPTED)
def test_the_acceptor_fails_p2pds_socket_once_all_was_read(loop: NewLoop, story: Story) -> None:
    run(loop, story)


async def _opener_lets_the_acceptor_end() -> None:
    end = await End.make(is_opener=True)
    await end.receive(chunk(b"answer") + MARK)
    assert await end.stream.read() == b"answer"
    assert await end.stream.read() == b""
    end.stream.close()
    assert await end.sent(8) == 2 * MARK
    await end.receive(MARK)
    assert await end.sent() == MARK
    (parting,) = end.parting
    assert not parting.done(), "it does not close first"
    end.p2pd.close()
    await end.wait_parted()


async def _opener_of_an_older_acceptor() -> None:
    end = await End.make(is_opener=True)
    end.stream.close()
    assert await end.sent() == MARK
    await end.receive(chunk(b"the rest") + MARK)
    assert await end.sent() == MARK
    end.p2pd.close()
    await end.wait_parted()


OPENED = {"of now": _opener_lets_the_acceptor_end, "of before": _opener_of_an_older_acceptor}


@on_each_loop
@pytest.mark.parametrize("story", OPENED.values(), ids=OPENED)
def test_the_opener_waits_for_the_end(loop: NewLoop, story: Story) -> None:
    run(loop, story)


async def _written_to_once_it_is_gone() -> None:
    end = await End.make(is_opener=True)
    end.p2pd.close()
    for _ in range(3):
        with pytest.raises(PeerLost):
            await end.stream.write(b"more")
    end.stream.close()
    await end.wait_parted()


async def _written_to_once_it_is_dropped() -> None:
    end = await End.make(is_opener=True)
    end.stream.drop()
    for _ in range(3):
        with pytest.raises(PeerLost):
            await end.stream.write(b"more")
    await end.wait_parted()


WRITTEN = {"p2pd is gone": _written_to_once_it_is_gone, "we have dropped it": _written_to_once_it_is_dropped}


@on_each_loop
@pytest.mark.parametrize("story", WRITTEN.values(), ids=WRITTEN)
def test_who_writes_to_a_stream_that_is_gone_has_lost_its_peer(loop: NewLoop, story: Story) -> None:
    """Not only the first time: uvloop raises something else of its own from the second on."""
    run(loop, story)
