"""Joins two streams to a circuit: what comes from one goes to the other, until either ends or a limit is reached.

Knows nothing of who may have one. What the two ends say to one another is encrypted between them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from p2pnet.errors import PeerLost
from p2pnet.network.interface import BareStream
from p2pnet.network.libp2p.relay import FAREWELL

PARTING_S = 5.0
"""How long an end may take to read a farewell: some round trips over a bad line, behind what is on its way."""

FILLING_S = 0.3
FILLING = bytes(1 << 16)
"""After so long it may be waiting for the rest of a frame in whose middle the circuit was cut: the largest that noise
and TLS have is filled up with this, and makes no sense then."""

IDLE_S = 600.0
IDLE_BYTES = 8 << 10
"""A circuit that has carried less than this in so long is idle. libp2p's own keep-alive sends 2.4 kB in ten minutes, a
gateway's probes 60 kB, and a request that waits has either; a worker or gateway closes one itself after a minute."""


class Circuit:
    """Between whoever asked for it and the peer that took it. `take` waits until so many bytes may go on; `count` is
    told of those that have."""

    def __init__(
        self,
        asker: BareStream,
        taker: BareStream,
        data_bytes: int,
        take: Callable[[int], Awaitable[None]],
        count: Callable[[int], None],
    ) -> None:
        self._asker = asker
        self._taker = taker
        self._data_bytes = data_bytes
        self._take = take
        self._count = count
        self._is_over = asyncio.Event()
        self._carried = 0
        self._looked_at: tuple[float, int] | None = None

    def end(self) -> None:
        """Have `run` come back."""
        self._is_over.set()

    def is_idle(self, now_s: float) -> bool:
        """Whether it has carried next to nothing for a while; asked again and again."""
        since_s, carried_then = self._looked_at or (now_s, self._carried)
        if self._carried - carried_then >= IDLE_BYTES:
            since_s, carried_then = now_s, self._carried
        self._looked_at = since_s, carried_then
        return now_s - since_s >= IDLE_S

    async def run(self, first: bytes, duration_s: float) -> None:
        """Carry bytes for so long at most, `first` those that the taker has said already. Both streams are closed
        afterwards."""
        ways = [
            asyncio.create_task(self._carry(self._asker, self._taker)),
            asyncio.create_task(self._carry(self._taker, self._asker, first)),
            asyncio.create_task(self._over()),
        ]
        gone: BareStream | None = None
        try:
            ended, _ = await asyncio.wait(ways, timeout=duration_s, return_when=asyncio.FIRST_COMPLETED)
            gone = next((task.result() for task in ended), None)
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            await asyncio.gather(*(part(each, each is gone) for each in (self._asker, self._taker)))

    async def _over(self) -> None:
        await self._is_over.wait()

    async def _carry(self, source: BareStream, sink: BareStream, data: bytes = b"") -> BareStream | None:
        """Until one of them is gone, which is returned, or has said enough."""
        left = self._data_bytes
        while data or (data := await source.read()):
            left -= len(data)
            if left < 0:
                return None
            await self._take(len(data))
            try:
                await sink.write(data)
            except PeerLost:
                return sink
            self._carried += len(data)
            self._count(len(data))
            data = b""
        return source


async def part(end: BareStream, is_gone: bool = False) -> None:
    """Close a stream that stays behind, once its other end has reset it. Never raises."""
    try:
        if not is_gone:
            with contextlib.suppress(PeerLost, TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    end.stop_reading()
                    await end.write(FAREWELL)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(FILLING_S):
                            return await end.wait_unread()
                    await end.write(FILLING)
                    await end.wait_unread()
    finally:
        end.close()
