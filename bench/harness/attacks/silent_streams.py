"""Many identities with a stream each to every worker, on which no request arrives; opened anew when they are closed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness.stranger.chunks import ChunkedStream
from bench.harness.stranger.peer import Stranger
from bench.harness.target import Target, TargetPeer
from p2pnet.errors import PeerLost, PeerUnreachable
from p2pnet.wire.codec import LENGTH_BYTES, MAX_REQUEST_FRAME_BYTES
from p2pnet.wire.exchange import GENERATE_PROTOCOL


@dataclass(frozen=True)
class Send:
    """What is said on a stream, piece by piece. It makes no whole request."""

    pieces: Sequence[bytes] = ()
    pause_s: float = 0.0


_HEAD = MAX_REQUEST_FRAME_BYTES.to_bytes(LENGTH_BYTES, "big")
WAYS = {
    "silent": Send(),
    "slow": Send([bytes([byte]) for byte in _HEAD + bytes(100)], pause_s=2.0),
    "large": Send([_HEAD + bytes(MAX_REQUEST_FRAME_BYTES - 1)]),
}

PAUSE_S = 0.05
"""Between two streams of one identity."""


async def attack(target: Target, identities: int = 70, way: str = "silent") -> None:
    """A `way` is one of WAYS: nothing is sent, or a byte now and then, or all of the largest request but a byte."""
    async with asyncio.TaskGroup() as group:
        for _ in range(identities):
            group.create_task(_identity(target, WAYS[way]))


async def _identity(target: Target, send: Send) -> None:
    async with Stranger() as stranger, asyncio.TaskGroup() as group:
        for worker in target.workers:
            group.create_task(_stay(stranger, worker, send))


async def _stay(stranger: Stranger, worker: TargetPeer, send: Send) -> None:
    while True:
        try:
            stream = await stranger.open_stream(worker.peer_id, GENERATE_PROTOCOL, [worker.tcp_address])
            sending = asyncio.create_task(_send(stream, send))
            try:
                await stream.read()  # that the place is another's now: the stream is left as it is
            finally:
                sending.cancel()
        except (PeerUnreachable, PeerLost, OSError):
            pass  # once more
        await asyncio.sleep(PAUSE_S)


async def _send(stream: ChunkedStream, send: Send) -> None:
    with contextlib.suppress(PeerLost):  # as `_stay` finds out
        for piece in send.pieces:
            await stream.write(piece)
            await asyncio.sleep(send.pause_s)
