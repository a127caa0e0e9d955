"""Puts the half of a gateway behind HTTP together."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from gateway.dispatch.dispatcher import DispatchConfig, Dispatcher
from gateway.dispatch.watch import Watch
from gateway.membership.probing import Prober
from gateway.membership.table import PeerTable
from gateway.observability.reports import Observer
from gateway.observability.timeline import Span
from gateway.queueing.admission import Admission, QueueLimits
from gateway.receipts.witness import Witnesses
from gateway.routing.choose import WorkerChoice, choose
from gateway.routing.recent_choices import RecentChoices
from gateway.routing.roster import is_served
from gateway.routing.route_query import RouteQuery
from p2pnet.flow.background import Background
from p2pnet.identity import Identity
from p2pnet.network.interface import Network
from p2pnet.network.kept_streams import KeptStreams

NoteChoice = Callable[[RouteQuery, WorkerChoice], None]


@dataclass(frozen=True)
class ServingConfig:
    queue: QueueLimits = field(default_factory=QueueLimits)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)


class Serving:
    """From a request to the workers. Use as an async context manager: what has to go on all the time goes on inside."""

    def __init__(
        self,
        network: Network,
        table: PeerTable,
        config: ServingConfig | None = None,
        observe: Observer = lambda report: None,
        note_choice: NoteChoice = lambda query, choice: None,
        rng: random.Random | None = None,
        now_s: Callable[[], float] = time.monotonic,
        identity: Identity | None = None,
        kept: KeptStreams | None = None,
    ) -> None:
        """Without an `identity` it signs for nothing."""
        config = config or ServingConfig()
        timeouts = config.dispatch.timeouts
        self._rng = rng or random.Random()
        self._now_s = now_s
        self._note_choice = note_choice
        self._recent = RecentChoices()
        self.table = table
        self.admission = Admission(self._choose, lambda query: is_served(table.roster, query), now_s, config.queue)
        self.prober = Prober(network, table, now_s)
        self.watch = Watch(self.prober.is_there, table.note_lost, timeouts.silence_s, now_s)
        witnesses = Witnesses(network.peer_id, identity)
        self._kept = KeptStreams() if kept is None else kept
        self.dispatcher = Dispatcher(
            network,
            table,
            self.admission,
            self.watch,
            self._choose,
            config.dispatch,
            observe,
            now_s,
            witnesses,
            self._kept,
        )
        table.on_change = self.admission.wake
        table.meet = self.prober.meet
        self._background = Background()

    async def __aenter__(self) -> Serving:
        self._background.keep("reading the directory", self.table.keep_fresh)
        self._background.keep("probing workers", self.prober.run)
        self._background.keep("watching answers", self.watch.run)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._background.stop()
        await self._kept.close()

    def spans(self) -> list[Span]:
        """What has come so far of the answers under way."""
        now_s, unix_s = self._now_s(), time.time()
        return [
            Span(unix_s - now_s + attempt.began_s + attempt.first_token_s, unix_s, attempt.tokens)
            for attempt in self.watch.attempts
            if attempt.first_token_s is not None
        ]

    def _choose(self, query: RouteQuery, exclude: Collection[str]) -> WorkerChoice | None:
        choice = choose(self.table.roster, query, self._now_s(), self._rng, exclude, recent=self._recent)
        if choice is not None:
            self._recent.note(query.key, choice.worker)
            self._note_choice(query, choice)
        return choice
