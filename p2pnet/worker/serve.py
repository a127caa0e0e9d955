"""Puts a worker together: backends, places, the stream handler and the announcer, on a peer that has joined."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2pnet.config import DirectoryConfig, WorkerConfig
from p2pnet.errors import RecordRefused, UsageError
from p2pnet.identity import Identity
from p2pnet.network import Clock, Network
from p2pnet.records import ModelCard
from p2pnet.wire.exchange import GENERATE_PROTOCOL
from p2pnet.worker.announcer import Announcer
from p2pnet.worker.backend import Backend
from p2pnet.worker.handler import GenerateHandler
from p2pnet.worker.load import LoadMeter

logger = logging.getLogger(__name__)


class Worker:
    """A worker that serves. Make one with `start`."""

    def __init__(
        self, config: WorkerConfig, backends: Sequence[Backend], handler: GenerateHandler, announcer: Announcer
    ) -> None:
        self._config = config
        self._backends = backends
        self._handler = handler
        self._announcer = announcer

    @classmethod
    async def start(
        cls,
        network: Network,
        identity: Identity,
        backends: Sequence[Backend],
        now_ms: Clock,
        config: WorkerConfig | None = None,
        directory: DirectoryConfig | None = None,
    ) -> Worker:
        """Serve the backends' models, then announce them: nothing is announced that is not served yet."""
        config = config or WorkerConfig()
        meter = LoadMeter(config.max_concurrency)
        handler = GenerateHandler(_by_model(backends), meter)
        await network.handle(GENERATE_PROTOCOL, handler)

        def models() -> tuple[ModelCard, ...]:
            return tuple(card for backend in backends for card in backend.models)

        announcer = Announcer(network, identity, models, meter, now_ms, directory)
        try:
            if not await announcer.start():
                logger.warning("no other peer has taken our announcement yet; it will be repeated")
        except RecordRefused as error:
            raise UsageError(
                f"The {len(models())} models do not fit into one announcement ({error}).", "Run several workers."
            ) from error
        return cls(config, backends, handler, announcer)

    async def stop(self) -> None:
        """Withdraw from the directory, let running requests finish, free the models."""
        await self._announcer.stop()
        await self._handler.drain(self._config.drain_s)
        await asyncio.gather(*(backend.close() for backend in self._backends))


def _by_model(backends: Sequence[Backend]) -> dict[str, Backend]:
    by_model: dict[str, Backend] = {}
    for backend in backends:
        for card in backend.models:
            if card.id in by_model:
                raise UsageError(
                    f"Two models would be served under the name {card.id}.", "Serve them from two workers."
                )
            by_model[card.id] = backend
    return by_model
