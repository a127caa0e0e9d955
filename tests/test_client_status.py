"""The client's probe against workers that answer as they should not, late, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from p2pnet.client import status
from p2pnet.directory import validator
from p2pnet.errors import (
    Busy,
    NotAllowed,
    P2PNetError,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    WorkerFailed,
)
from p2pnet.messages import Accepted, Failed, Finished, Load, Usage
from p2pnet.network.interface import Stream, StreamHandler
from p2pnet.network.memory import MemoryNetwork, MemoryWorld
from p2pnet.status_messages import Status, StatusRequest
from p2pnet.wire.codec import MAX_STATUS_FRAME_BYTES, encode_frame, status_request_decoder
from p2pnet.wire.exchange import STATUS_PROTOCOL
from tests.stories import ManualClock, peer

WORKER, GATEWAY = peer("worker").peer_id, peer("gateway").peer_id
STATUS = Status(True, Load(1, 2, 8, 7), 5)


def framed(*events: Status | Failed | Accepted | Finished) -> bytes:
    return b"".join(encode_frame(event, 1 << 20) for event in events)


def says(*chunks: bytes, then: Callable[[], Awaitable[object]] | None = None) -> StreamHandler:
    """A worker that reads the probe, writes these bytes, and goes away, or does something else `then`."""

    async def handle(stream: Stream) -> None:
        decoder, probes = status_request_decoder(), list[StatusRequest]()
        while not probes:
            probes = decoder.feed(await stream.read())
        for chunk in chunks:
            await stream.write(chunk)
        if then is not None:
            await then()

    return handle


async def network_with(handler: StreamHandler) -> MemoryNetwork:
    world = MemoryWorld(validator(ManualClock()))
    await world.join(WORKER).handle(STATUS_PROTOCOL, handler)
    return world.join(GATEWAY)


async def probe(handler: StreamHandler, timeout_s: float = 10.0) -> Status:
    return await status(await network_with(handler), WORKER, (), timeout_s)


async def test_what_the_worker_says_comes_back() -> None:
    assert await probe(says(framed(STATUS))) == STATUS


async def test_in_any_pieces() -> None:
    data = framed(STATUS)
    for cut in range(1, len(data)):
        assert await probe(says(data[:cut], data[cut:])) == STATUS
    assert await probe(says(*(data[at : at + 1] for at in range(len(data))))) == STATUS


async def test_it_does_not_wait_for_the_end_of_the_stream() -> None:
    assert await probe(says(framed(STATUS), then=asyncio.Event().wait)) == STATUS


WRONG: dict[str, tuple[bytes, type[P2PNetError]]] = {
    "nothing": (b"", PeerLost),
    "half a frame": (framed(STATUS)[:-1], PeerLost),
    "junk": (b"\0\0\0\4junk", ProtocolViolation),
    "a frame too large": ((MAX_STATUS_FRAME_BYTES + 1).to_bytes(4, "big"), ProtocolViolation),
    "two of them": (framed(STATUS, STATUS), ProtocolViolation),
    "bytes after it": (framed(STATUS) + b"\0", ProtocolViolation),
    "another protocol's events": (framed(Accepted(1), Finished("stop", Usage(1, 1))), ProtocolViolation),
    "a status without what it must have": (b"\0\0\0\x0d\x81\xa4type\xa6status", ProtocolViolation),
    "numbers out of bounds": (framed(STATUS).replace(b"\x05", b"\xff"), ProtocolViolation),
    "busy": (framed(Failed("busy", "too often")), Busy),
    "not allowed": (framed(Failed("not_allowed")), NotAllowed),
    "a code of the future": (framed(Failed("tired")), WorkerFailed),
}


@pytest.mark.parametrize(("data", "error"), WRONG.values(), ids=WRONG)
async def test_what_is_no_status(data: bytes, error: type[P2PNetError]) -> None:
    with pytest.raises(error):
        await probe(says(data))


async def test_a_peer_that_speaks_no_such_protocol() -> None:
    world = MemoryWorld(validator(ManualClock()))
    world.join(WORKER)
    with pytest.raises(PeerUnreachable):
        await status(world.join(GATEWAY), WORKER, (), 10)


async def test_a_silent_worker_is_lost_in_time_and_its_stream_closed() -> None:
    ended = asyncio.Event()

    async def silent(stream: Stream) -> None:
        while await stream.read():
            pass
        ended.set()

    with pytest.raises(PeerLost, match=r"within 0\.03 s"):
        await probe(silent, timeout_s=0.03)
    await asyncio.wait_for(ended.wait(), 10)


async def test_a_dialling_that_hangs_is_lost_in_time() -> None:
    class Hanging(MemoryNetwork):
        async def open_stream(self, *arguments: object) -> Stream:  # type: ignore[override]
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(PeerLost):
        await status(Hanging(MemoryWorld(validator(ManualClock())), GATEWAY), WORKER, (), 0.03)
