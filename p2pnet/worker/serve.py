"""Puts a worker together: backends, places, the stream handler and the announcer, on a peer that has joined."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2pnet.config import DirectoryConfig, WorkerConfig
from p2pnet.errors import RecordRefused, UsageError
from p2pnet.identity import Identity
from p2pnet.network import Clock, Network
from p2pnet.wire.exchange import EMBED_PROTOCOL, GENERATE_PROTOCOL
from p2pnet.worker.announcer import Announcer
from p2pnet.worker.backend import Backend, EmbedBackend
from p2pnet.worker.catalogue import Catalogue, duplicates
from p2pnet.worker.embed_handler import EmbedHandler
from p2pnet.worker.handler import GenerateHandler
from p2pnet.worker.load import LoadMeter
from p2pnet.worker.owner.owner import Owner

logger = logging.getLogger(__name__)


class Worker:
    """A worker that serves. Make one with `start`."""

    def __init__(
        self,
        config: WorkerConfig,
        owner: Owner,
        backends: Sequence[Backend | EmbedBackend],
        handlers: Sequence[GenerateHandler | EmbedHandler],
        announcer: Announcer,
    ) -> None:
        self._config = config
        self._owner = owner
        self._backends = backends
        self._handlers = handlers
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
        owner: Owner | None = None,
        embedders: Sequence[EmbedBackend] = (),
    ) -> Worker:
        """Serve the backends' models, then announce them: nothing is announced that is not served yet, or not now."""
        config = config or WorkerConfig()
        owner = owner or Owner()
        owner.look_at_clock()
        _check_names((*backends, *embedders))
        catalogue = Catalogue(backends, embedders)
        meter = LoadMeter(config.max_concurrency, catalogue, now_ms)
        generate = GenerateHandler(catalogue.find, meter, refusal=owner.refusal)
        embed = EmbedHandler(catalogue.find_embedder, meter, refusal=owner.refusal)
        await network.handle(GENERATE_PROTOCOL, generate)
        await network.handle(EMBED_PROTOCOL, embed)
        announcer = Announcer(network, identity, catalogue.cards, meter, now_ms, directory)
        try:
            if not await announcer.start(owner.is_paused):
                logger.warning("no other peer has taken our announcement yet; it will be repeated")
        except RecordRefused as error:
            raise UsageError(f"The models cannot be announced ({error}).", "Serve them under shorter names.") from error
        owner.start(announcer.set_paused)
        return cls(config, owner, (*backends, *embedders), (generate, embed), announcer)

    async def stop(self) -> None:
        """Withdraw from the directory, let running requests finish, free the models."""
        await self._owner.stop()
        await self._announcer.stop()
        await asyncio.gather(*(handler.drain(self._config.drain_s) for handler in self._handlers))
        await asyncio.gather(*(backend.close() for backend in self._backends))


def _check_names(backends: Sequence[Backend | EmbedBackend]) -> None:
    """Later a model may come that is there already; who starts a worker with two of one name has made a mistake."""
    for model in sorted(duplicates(card for backend in backends for card in backend.models)):
        raise UsageError(f"Two models would be served under the name {model}.", "Serve them from two workers.")
