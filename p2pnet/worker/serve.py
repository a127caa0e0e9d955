"""Puts a worker together, on a peer that has joined: backends, slots, guard, handlers, announcer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2pnet.config import DirectoryConfig, WorkerConfig
from p2pnet.errors import RecordRefused, UsageError
from p2pnet.identity import Identity
from p2pnet.network.interface import Clock, Network
from p2pnet.status_messages import Status
from p2pnet.worker.announcing.announcer import Announcer
from p2pnet.worker.backend import Backend, EmbedBackend, RerankBackend
from p2pnet.worker.catalogue import Catalogue, duplicates
from p2pnet.worker.observability.load import LoadMeter
from p2pnet.worker.observability.observer import Observer, Standing
from p2pnet.worker.owner.owner import Owner
from p2pnet.worker.streams.embed_handler import EmbedHandler
from p2pnet.worker.streams.generate_handler import GenerateHandler
from p2pnet.worker.streams.guard import Guard
from p2pnet.worker.streams.rerank_handler import RerankHandler
from p2pnet.worker.streams.score_handler import ScoreHandler
from p2pnet.worker.streams.signing import Keep, Signer, drop
from p2pnet.worker.streams.status_handler import StatusHandler
from p2pnet.worker.streams.tokenize_handler import TokenizeHandler
from p2pnet.worker.streams.watch_handler import WatchHandler

logger = logging.getLogger(__name__)


class Worker:
    """A worker that serves. Make one with `start`."""

    def __init__(
        self,
        network: Network,
        config: WorkerConfig,
        owner: Owner,
        catalogue: Catalogue,
        meter: LoadMeter,
        announcer: Announcer,
        signer: Signer,
    ) -> None:
        self._network = network
        self._config = config
        self._owner = owner
        self._catalogue = catalogue
        self._announcer = announcer
        self._meter = meter
        self._guard = Guard(config.guard)
        self._generate = GenerateHandler(catalogue.find, meter, refusal=owner.refusal, guard=self._guard)
        self._generate.signer = signer
        self._embed = EmbedHandler(catalogue.find_embedder, meter, refusal=owner.refusal, guard=self._guard)
        self._score = ScoreHandler(catalogue.find_scorer, meter, refusal=owner.refusal, guard=self._guard)
        self._rerank = RerankHandler(catalogue.find_reranker, meter, refusal=owner.refusal, guard=self._guard)
        self._tokenize = TokenizeHandler(catalogue.find_tokenizer, meter, refusal=owner.refusal, guard=self._guard)

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
        embedders: Sequence[EmbedBackend | RerankBackend] = (),
        observer: Observer | None = None,
        keep: Keep = drop,
    ) -> Worker:
        """Serve the backends' models, then announce them: nothing is announced that is not served yet, or not now.
        `keep` is given what gateways sign for."""
        config = config or WorkerConfig()
        owner = owner or Owner()
        owner.look_at_clock()
        _check_names((*backends, *embedders))
        catalogue = Catalogue(backends, embedders)
        meter = LoadMeter(config.max_concurrency, catalogue, now_ms, observer=observer)
        announcer = Announcer(
            network,
            identity,
            catalogue.cards,
            meter,
            now_ms,
            directory,
            name=config.name,
            incomplete=catalogue.incomplete,
        )
        worker = cls(network, config, owner, catalogue, meter, announcer, Signer(identity, now_ms, keep))
        await worker._serve()
        await worker._announce()
        return worker

    @property
    def name(self) -> str:
        """What its owner calls it, if anything."""
        return self._config.name

    def has_issued(self, sequence: int) -> bool:
        """Whether the record of this number in the directory is one of ours."""
        return self._announcer.has_issued(sequence)

    @property
    def status(self) -> Status:
        """How it is at this moment, as a probe is told."""
        is_stopping = self._generate.is_draining or self._owner.refusal() is not None
        return Status(
            is_serving=not is_stopping and bool(self._catalogue.cards()),
            load=self._meter.load,
            record_sequence=self._announcer.stored_sequence,
        )

    def standing(self) -> Standing:
        """How it stands, for whoever watches it."""
        return Standing(
            self.status,
            self._guard.gateways,
            self._catalogue.cards(),
            self._owner.state,
            self._generate.is_draining,
            self._network.open_streams,
            self._network.clock,
            self._network.relayed,
        )

    async def stop(self) -> None:
        """Withdraw from the directory, let running requests finish, free the models."""
        await self._owner.stop()
        await self._announcer.stop()
        handlers = (self._generate, self._embed, self._score, self._tokenize, self._rerank)
        await asyncio.gather(*(handler.drain(self._config.drain_s) for handler in handlers))
        await self._catalogue.close()

    async def _serve(self) -> None:
        probed = StatusHandler(lambda: self.status, self._guard, observer=self._meter.observer)
        watched = WatchHandler(
            lambda: self.status, lambda: self._announcer.records, self._guard, observer=self._meter.observer
        )
        asked = (self._generate, self._embed, self._score, self._tokenize, self._rerank)
        for handler in (*asked, probed, watched):
            await self._network.handle(handler.protocol.name, handler)

    async def _announce(self) -> None:
        try:
            if not await self._announcer.start(self._owner.is_paused):
                logger.warning("no other peer has taken our announcement yet; it will be repeated")
        except RecordRefused as error:
            raise UsageError(f"The models cannot be announced ({error}).", "Serve them under shorter names.") from error
        self._owner.start(self._announcer.set_paused, self._clock_fault)

    def _clock_fault(self) -> str:
        clock = self._network.clock
        return clock.says if clock.has_jumped else ""


def _check_names(backends: Sequence[Backend | EmbedBackend | RerankBackend]) -> None:
    """Raises UsageError for two models of one name, a mistake when a worker is started. Later a model may come that is
    there already."""
    for model in sorted(duplicates(card for backend in backends for card in backend.models)):
        raise UsageError(f"Two models would be served under the name {model}.", "Serve them from two workers.")
