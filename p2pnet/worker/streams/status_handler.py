"""Answers probes at once, also when the worker is full, paused or stopping.

Takes no slot and asks no backend to compute. Knows nothing of how the worker stands: it is given what says so.
"""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.config import ExchangeTimeouts
from p2pnet.status_messages import Status, StatusRequest
from p2pnet.wire.protocols import STATUS
from p2pnet.worker.observability.observer import Observer
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.inbound import Asked, InboundHandler


class StatusHandler(InboundHandler[StatusRequest]):
    """Serves `/p2pnet/status/1`. `status` says how the worker is at this moment."""

    protocol = STATUS

    def __init__(
        self,
        status: Callable[[], Status],
        guard: Guard | None = None,
        timeouts: ExchangeTimeouts | None = None,
        observer: Observer | None = None,
    ) -> None:
        guard = guard or Guard()
        super().__init__(guard, guard.probes_arriving, timeouts, observer or Observer())
        self._status = status

    def _check(self, peer_id: str) -> None:
        self._guard.check_probe(peer_id)

    async def _answer_to(self, asked: Asked[StatusRequest]) -> None:
        self._observer.probed()
        await self._send(asked.stream, asked.exchange, [self._status()])
