"""Tells gateways that use this worker how it is, for as long as they listen: its load, what it runs, its end.

Takes no slot and asks no backend to compute. Knows nothing of how the worker stands: it is given what says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import PeerLost, ProtocolViolation
from p2pnet.status_messages import Announced, Status, WatchRequest
from p2pnet.wire.protocols import WATCH
from p2pnet.worker.observability.observer import Observer
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.inbound import Asked, InboundHandler
from p2pnet.worker.streams.watchers import Place, Watchers

PUSH_S = 0.5
"""How often it is looked whether there is anything to tell: routing bears a load that is seconds old."""

HEARTBEAT_S = 1.0
"""And so often something is said in any case: a machine that was switched off closes no stream, and is missed for its
silence."""


class WatchHandler(InboundHandler[WatchRequest]):
    """Serves `/p2pnet/watch/1`. `status` says how the worker is at this moment, `records` are the sealed records that
    it announces now."""

    protocol = WATCH

    def __init__(
        self,
        status: Callable[[], Status],
        records: Callable[[], tuple[bytes, ...]],
        guard: Guard | None = None,
        timeouts: ExchangeTimeouts | None = None,
        observer: Observer | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        guard = guard or Guard()
        super().__init__(guard, guard.probes_arriving, timeouts, observer or Observer())
        self._status = status
        self._records = records
        self._sleep = sleep
        self.watchers = Watchers(guard.has_served)

    def _check(self, peer_id: str) -> None:
        self._guard.check_probe(peer_id)

    async def _answer_to(self, asked: Asked[WatchRequest]) -> None:
        """Until the gateway closes the stream, which only who reads it notices."""
        with self.watchers.place(asked.stream.peer_id) as place:
            telling = asyncio.create_task(self._tell(asked, place))
            listening = asyncio.create_task(asked.stream.read())
            try:
                await asyncio.wait({telling, listening}, return_when=asyncio.FIRST_COMPLETED)
                if telling.done():
                    telling.result()
                if listening.result():
                    raise ProtocolViolation("bytes after the request")
                raise PeerLost("the gateway watches no more")
            finally:
                telling.cancel()
                listening.cancel()
                await asyncio.wait({telling, listening})

    async def _tell(self, asked: Asked[WatchRequest], place: Place) -> None:
        """For ever. Raises when that may not go on."""
        told: tuple[bytes, ...] = ()
        said: Status | None = None
        silent_s = 0.0
        while True:
            place.check()
            status, records = self._status(), self._records()
            news = [Announced(record) for record in records if record not in told]
            if said is None or news or silent_s >= HEARTBEAT_S or not _is_same(said, status):
                await self._send(asked.stream, asked.exchange, [status, *news])
                told, said, silent_s = records, status, 0.0
            await self._sleep(PUSH_S)
            silent_s += PUSH_S


def _is_same(one: Status, other: Status) -> bool:
    """But for the time of it."""
    load = msgspec.structs.replace(one.load, sampled_ms=other.load.sampled_ms)
    return msgspec.structs.replace(one, load=load) == other
