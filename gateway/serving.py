"""Puts the half of a gateway behind HTTP together."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field

from gateway.audits.audits import Audits
from gateway.audits.modes import AuditConfig
from gateway.dispatch.dispatcher import DispatchConfig, Dispatcher
from gateway.dispatch.watch import Watch
from gateway.interface import Caller
from gateway.membership.probing import Prober
from gateway.membership.table import PeerTable
from gateway.membership.watching import Watching
from gateway.observability.reports import Observer
from gateway.observability.timeline import Span
from gateway.peers.worker import Worker
from gateway.queueing.admission import Admission, QueueLimits
from gateway.receipts.witness import Witnesses
from gateway.routing.choose import WorkerChoice, choose
from gateway.routing.recent_choices import RecentChoices
from gateway.routing.roster import is_served
from gateway.routing.route_query import RouteQuery
from p2pnet.client import generate
from p2pnet.errors import Flagged
from p2pnet.flow.background import Background
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network
from p2pnet.network.kept_streams import KeptStreams

OURSELVES = Caller("this gateway's own")
"""Who asks for answers that nobody needs but to have them looked at."""

NoteChoice = Callable[[RouteQuery, WorkerChoice], None]


@dataclass(frozen=True)
class ServingConfig:
    queue: QueueLimits = field(default_factory=QueueLimits)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    audits: AuditConfig = field(default_factory=AuditConfig)


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
        witnesses: Witnesses | None = None,
        kept: KeptStreams | None = None,
    ) -> None:
        """Without `witnesses` it checks receipts, and signs for nothing."""
        config = config or ServingConfig()
        timeouts = config.dispatch.timeouts
        self._network = network
        self._timeouts = timeouts
        self._rng = rng or random.Random()
        self._now_s = now_s
        self._note_choice = note_choice
        self._recent = RecentChoices()
        self.table = table
        self.admission = Admission(self._choose, lambda query: is_served(table.roster, query), now_s, config.queue)
        self.prober = Prober(network, table, now_s)
        self.watching = Watching(network, table, self.prober, now_s)
        self.watch = Watch(self.prober.is_there, self.prober.lose, timeouts.silence_s, now_s)
        self._witnesses = witnesses or Witnesses(network.peer_id)
        self._kept = KeptStreams() if kept is None else kept
        self.audits = Audits(
            network,
            table,
            lambda model: self.admission.waiting(model) > 0,
            config.audits,
            rng,
            now_s,
            timeouts=timeouts,
            ask=self._ask,
        )
        self.dispatcher = Dispatcher(
            network,
            table,
            self.admission,
            self.watch,
            self._choose,
            config.dispatch,
            observe,
            now_s,
            self._witnesses,
            self.audits,
            self._kept,
        )
        table.flags.listen(self._part_from_flagged)
        table.on_change = self.admission.wake
        table.meet = self.prober.meet
        table.waited_for = self.admission.waiting_by_model
        self._background = Background()

    async def __aenter__(self) -> Serving:
        self._background.keep("reading the directory", self.table.keep_fresh)
        self._background.keep("looking up models", self.table.keep_looking_up)
        self._background.keep("probing workers", self.prober.run)
        self._background.keep("watching workers", self.watching.run)
        self._background.keep("watching answers", self.watch.run)
        self._background.keep("auditing answers", self.audits.run)
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

    def _part_from_flagged(self) -> None:
        """What flagged workers have under way goes on elsewhere, and what they gave buys nothing."""
        for attempt in self.watch.attempts:
            if attempt.worker.peer_id in self.table.flags:
                attempt.cut("its answers do not come from what it claims to run", Flagged)
        for flag in self.table.flags.all:
            self._witnesses.book.forget(flag.worker)

    def _ask(self, worker: Worker, request: GenerateRequest) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
        """Ask a worker as for a client: it is not to see whose question this is."""
        witness = self._witnesses.of(request, worker.peer_id, OURSELVES, lambda error: None)
        addresses = worker.record.addresses
        return generate(
            self._network, worker.peer_id, request, addresses, self._timeouts, witness=witness, kept=self._kept
        )

    def _choose(self, query: RouteQuery, exclude: Collection[str]) -> WorkerChoice | None:
        self.table.want(query.model)
        choice = choose(self.table.roster, query, self._now_s(), self._rng, exclude, recent=self._recent)
        if choice is not None:
            self._recent.note(query.key, choice.worker)
            self._note_choice(query, choice)
        return choice
