"""The dispatcher: serves a request through workers until it is complete. The only loop that sends a request again.

A request waits for a worker (`slot_wait.py`), is tried there (`race.py`), and goes on elsewhere when that fails, from
where its client is (`progress.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, cast

import msgspec

from gateway.audits.audits import Audits
from gateway.dispatch.attempt import Attempt
from gateway.dispatch.attempts import Account, Ask, Attempts, Running, Step
from gateway.dispatch.doubt import Doubt, DoubtCredit
from gateway.dispatch.embed_progress import EmbedProgress
from gateway.dispatch.failure_policy import FailurePolicy
from gateway.dispatch.generate_progress import GenerateProgress
from gateway.dispatch.hedging import Hedging
from gateway.dispatch.moving import Moving
from gateway.dispatch.progress import E, Progress, Q
from gateway.dispatch.race import Hedge, Race
from gateway.dispatch.refusals import Refusals
from gateway.dispatch.request_size import size_of
from gateway.dispatch.request_trace import RequestTrace
from gateway.dispatch.second_opinion import SecondOpinion
from gateway.dispatch.slot_wait import SlotWait
from gateway.dispatch.watch import Watch
from gateway.dispatch.whole_progress import WholeProgress
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent, RankingEvent, Routed, TokenizingEvent, Waiting
from gateway.membership.table import PeerTable
from gateway.observability.reports import Observer, RequestReport
from gateway.queueing.admission import Admission
from gateway.queueing.ticket import Ticket
from gateway.receipts.witness import Witnesses
from gateway.routing.choose import WorkerChoice
from gateway.routing.roster import is_served, obstacle
from gateway.routing.route_query import RouteQuery, route_query_of
from p2pnet.client import embed, generate, rerank, tokenize
from p2pnet.config import ExchangeTimeouts
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import Busy, DeadlineExceeded, EndDoubted, ModelNotFound, NoWorker, P2PNetError
from p2pnet.flow.interleaving import interleaved
from p2pnet.messages import Accepted, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network
from p2pnet.network.kept_streams import KeptStreams
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest

WAIT_S = 30.0
"""How long a request waits for a worker, at its beginning and again after each failure in mid-answer. Clients give up
after one to ten minutes; whoever waits this long is better told to come back."""

RECHECK_S = 0.5
"""An answer that no worker of its digest can go on with is looked at again this often: one may have come."""


@dataclass(frozen=True)
class DispatchConfig:
    wait_s: float = WAIT_S
    timeouts: ExchangeTimeouts = field(default_factory=ExchangeTimeouts)


Choose = Callable[[RouteQuery, Collection[str]], WorkerChoice | None]
"""A worker for a request that none of the given ones can serve; None when there is none at this moment."""


@dataclass(frozen=True)
class _Job(Generic[Q, E]):
    """An answer to be completed: a whole request's, or under `index` one of several that go on apart. `size` is in
    bytes."""

    progress: Progress[Q, E]
    ask: Ask[Q, E]
    caller: Caller
    trace: RequestTrace
    may_be_hedged: bool
    size: int
    index: int | None = None


class Dispatcher:
    """Serves requests through the workers of a network. `run` is an `interface.Generate`, `embed` an `Embed`,
    `tokenize` a `Tokenize`."""

    def __init__(
        self,
        network: Network,
        table: PeerTable,
        admission: Admission,
        watch: Watch,
        choose: Choose,
        config: DispatchConfig | None = None,
        observe: Observer = lambda report: None,
        now_s: Callable[[], float] = time.monotonic,
        witnesses: Witnesses | None = None,
        audits: Audits | None = None,
        kept: KeptStreams | None = None,
    ) -> None:
        self._network = network
        self._kept = kept
        self._witnesses = witnesses or Witnesses(network.peer_id)
        self._table = table
        self._admission = admission
        self._choose = choose
        self._config = config or DispatchConfig()
        self._observe = observe
        self._now_s = now_s
        self.hedging = Hedging()
        self._doubt_credit = DoubtCredit()
        self._usual = watch.usual
        self._traces: set[RequestTrace] = set()
        self._moving = Moving(table, now_s)
        self._audits = audits or Audits(network, table)
        self._attempts = Attempts(watch, admission, self.hedging, now_s, self._audits.end)

    def run(self, request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
        """Waiting*, Routed, Accepted, TextDelta*, Finished. Raises RequestError (ModelNotFound, FeatureMissing when
        nobody can do what is asked), Busy, NoWorker, DeadlineExceeded, WorkerFailed when the request itself makes
        workers fail."""
        self.hedging.note_request()
        self._doubt_credit.note_request()
        trace = RequestTrace(request, caller, self._now_s)
        progress, size = GenerateProgress(request), size_of(request)
        ask = partial(self._generate, caller)
        return self._reported(_Job(progress, ask, caller, trace, may_be_hedged=True, size=size))

    def embed(self, request: EmbedRequest, caller: Caller) -> AsyncGenerator[EmbeddingEvent, None]:
        """Waiting*, Routed, Accepted, Embedding for each input in any order, Finished. Raises as `run`."""
        return self._once(request, EmbedProgress(request), self._embed, caller)

    def tokenize(self, request: TokenizeRequest, caller: Caller) -> AsyncGenerator[TokenizingEvent, None]:
        """Waiting*, Routed, Accepted, Tokenized*, Finished. Raises as `run`."""
        progress = WholeProgress[TokenizeRequest, Accepted | Tokenized | Finished](request)
        return self._once(request, progress, self._tokenize, caller)

    def rerank(self, request: RerankRequest, caller: Caller) -> AsyncGenerator[RankingEvent, None]:
        """Waiting*, Routed, Accepted, Relevance for each document in any order, Finished. Raises as `run`."""
        progress = WholeProgress[RerankRequest, Accepted | Relevance | Finished](request)
        return self._once(request, progress, self._rerank, caller)

    def _once(
        self, request: Q, progress: Progress[Q, E], ask: Ask[Q, E], caller: Caller
    ) -> AsyncGenerator[Waiting | Routed | E, None]:
        """Serve it by one worker at a time."""
        trace = RequestTrace(request, caller, self._now_s)
        return self._reported(_Job(progress, ask, caller, trace, may_be_hedged=False, size=size_of(request)))

    async def _reported(self, job: _Job[Q, E]) -> AsyncGenerator[Waiting | Routed | E, None]:
        """Serve a whole request. Once it is over, whoever wants to know is told what happened."""
        trace, error = job.trace, None
        self._traces.add(trace)
        try:
            async with aclosing(self._serve(job)) as events:
                async for event in events:
                    trace.note_event(event)
                    yield event
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._traces.discard(trace)
            self._observe(trace.report(error))

    def under_way(self) -> list[RequestReport]:
        """What has happened so far to the requests that are not over and have met with anything yet."""
        return [trace.report(None) for trace in self._traces if trace.attempts]

    async def _serve(self, job: _Job[Q, E]) -> AsyncGenerator[Waiting | Routed | E, None]:
        """Try until the answer is complete."""
        progress, trace = job.progress, job.trace
        doubt = Doubt(self._usual, self._doubt_credit)
        account = Account(Refusals(self._now_s), SecondOpinion(self._usual), doubt, trace, job.index)
        policy = FailurePolicy(trace.model)
        wait_s = self._wait_s(job.caller)
        deadline_s = self._now_s() + wait_s
        is_sent_back = False
        while not progress.is_over:
            doubted = doubt.of(progress.parts_given)
            unsure = policy.refusal if doubted is None else EndDoubted()
            try:
                until_s = deadline_s if doubted is None else min(deadline_s, account.opinion.until_s)
                step = await self._next_step(job, until_s, policy)
                if doubted is not None and step.is_by_text:
                    raise EndDoubted  # no other can say just where it would have ended
                is_urgent = progress.has_begun or is_sent_back
                ticket = Ticket(step.query, job.caller, deadline_s, account.refusals, is_urgent, wait_s > 0, job.size)
                if unsure is not None:
                    ticket = self._for_second_opinion(ticket, account, unsure)
                async with SlotWait(self._admission, ticket, trace, policy, self._now_s) as wait:
                    while (waiting := await wait.next()) is not None:
                        yield waiting
            except P2PNetError:
                if doubted is None:
                    raise
                for last in progress.take(cast(E, doubted.finished)):  # nobody says otherwise
                    yield last
                return
            parts_before = progress.parts_given
            try:
                async with self._race(job, step, wait.choice, account, unsure is not None) as race:
                    while (given := await race.next()) is not None:
                        for event in given:
                            yield event
                continue
            except P2PNetError as error:
                failed = error
            if progress.parts_given > parts_before:
                policy.note_moved()
                deadline_s = self._now_s() + wait_s
            for last in progress.end_at_limit():
                yield last
            if progress.is_over:
                return
            if (standing := doubt.of(progress.parts_given)) is None:
                policy.note(failed, progress.has_begun)
            elif isinstance(failed, EndDoubted):
                account.opinion.note_doubted(standing.attempt.worker, self._now_s())
            is_sent_back = isinstance(failed, Busy)
            if progress.is_splittable:
                async with aclosing(self._serve_apart(job)) as events:
                    async for each in events:
                        yield each
                return

    async def _serve_apart(self, job: _Job[Q, E]) -> AsyncGenerator[Waiting | Routed | E, None]:
        """Several answers that came from one worker go on, each by itself, wherever there is room."""
        parts = [replace(job, progress=part, index=index) for index, part in enumerate(job.progress.split())]
        async with aclosing(interleaved([self._serve(part) for part in parts])) as events:
            async for event in events:
                if not isinstance(event, Waiting):
                    yield event
        for end in job.progress.end_of_parts():
            yield end

    async def _next_step(self, job: _Job[Q, E], deadline_s: float, policy: FailurePolicy) -> Step[Q, E]:
        """The request for what is left, as somebody can serve it. Waits while nobody is there but may come. Raises why
        the request cannot be served at all."""
        while True:
            steps = [
                Step(each.request, route_query_of(each.request), job.ask, each.is_by_text)
                for each in job.progress.continuations()
            ]
            for step in steps:
                if is_served(self._table.roster, step.query):
                    return step
            if not steps:
                raise NoWorker(f"This answer of {job.trace.model} broke off, and nobody can go on with it. Ask again.")
            if not job.progress.has_begun:
                await self._check_possible(steps[0].query, job.caller)
                return steps[0]
            if self._now_s() >= deadline_s:
                in_vain = DeadlineExceeded if self._wait_s(job.caller) > 0 else NoWorker
                raise policy.verdict(in_vain(f"No worker came that can go on with this answer of {job.trace.model}."))
            await asyncio.sleep(RECHECK_S)

    def _wait_s(self, caller: Caller) -> float:
        return self._config.wait_s if caller.wait_s is None else caller.wait_s

    async def _check_possible(self, query: RouteQuery, caller: Caller) -> None:
        """Raises why nobody will ever serve this; returns when somebody may come who does."""
        await self._table.look_up(query.model)
        if is_served(self._table.roster, query):
            return
        if (error := obstacle(self._table.workers, query)) is not None:
            raise error
        if not caller.wait_s and not self._table.has_known(query.model):
            raise ModelNotFound(f"The model {query.model} does not exist on this network.", "model")

    def _for_second_opinion(self, ticket: Ticket, account: Account, refusal: P2PNetError) -> Ticket:
        """For one of the workers that may say whether it is so. Raises the refusal when there is none, or no time."""
        opinion, group, now_s = account.opinion, self._table.roster.able(ticket.query), self._now_s()
        able = () if group is None else group.workers
        passed_over = opinion.passed_over(able, ticket.query.key, account.refusals, now_s)
        if passed_over is None or now_s >= opinion.until_s:
            raise refusal
        return replace(ticket, exclude=passed_over, is_urgent=True, deadline_s=min(ticket.deadline_s, opinion.until_s))

    def _race(
        self, job: _Job[Q, E], step: Step[Q, E], choice: WorkerChoice, account: Account, has_verdict: bool
    ) -> Race[Q, E]:
        """Raises ModelNotFound when the worker does not run the model any more. `has_verdict`: the client can be told
        something without it."""
        terms = self._moving.terms(step.query, job.progress, choice.worker, account.refusals, has_verdict)
        first = self._attempts.start(step, choice, account, terms=terms)
        hedge: Hedge[E] | None = None
        if job.may_be_hedged and len(self._table.roster.of(step.query.key)) >= 2:
            hedge = Hedge(self.hedging.delay_s(step.query.key), lambda: self._second(job, step, choice, account))
        return Race(self._attempts, first, job.progress, step.is_by_text, hedge)

    def _second(self, job: _Job[Q, E], step: Step[Q, E], first: WorkerChoice, account: Account) -> Running[E] | None:
        """Another worker for what the first one is late with, where that takes a free slot from nobody."""
        if self._admission.waiting(step.query.model):
            return None
        choice = self._choose(step.query, {first.worker.peer_id, *account.refusals, *account.opinion.refusers})
        if choice is None or choice.worker.pressure() >= choice.worker.slots or not self.hedging.spend():
            return None
        choice.worker.reserve(step.query.key, self._now_s())
        terms = self._moving.terms(step.query, job.progress, choice.worker, account.refusals)
        return self._attempts.start(step, choice, account, is_hedge=True, terms=terms)

    def _generate(
        self, caller: Caller, request: GenerateRequest, attempt: Attempt
    ) -> AsyncGenerator[Accepted | TextDelta | Finished, None]:
        worker, limit = attempt.worker, request.max_tokens or attempt.card.context_length
        addresses, timeouts = worker.record.addresses, self._config.timeouts
        free = self._audits.free_look(request, worker, attempt.before)
        note_scored = None if free is None else free.note
        if free is not None:
            request = msgspec.structs.replace(request, score_resume=True)
        attempt.given = self._audits.begin(request, worker, attempt.card, caller)
        witness = self._witnesses.of(request, worker.peer_id, caller, attempt.note_wrong_receipt)
        kept = self._kept
        return generate(self._network, worker.peer_id, request, addresses, timeouts, limit, witness, note_scored, kept)

    def _embed(self, request: EmbedRequest, attempt: Attempt) -> AsyncGenerator[Accepted | Embedding | Finished, None]:
        worker, timeouts = attempt.worker, self._config.timeouts
        return embed(self._network, worker.peer_id, request, worker.record.addresses, timeouts, self._kept)

    def _tokenize(
        self, request: TokenizeRequest, attempt: Attempt
    ) -> AsyncGenerator[Accepted | Tokenized | Finished, None]:
        worker, timeouts = attempt.worker, self._config.timeouts
        return tokenize(self._network, worker.peer_id, request, worker.record.addresses, timeouts, self._kept)

    def _rerank(
        self, request: RerankRequest, attempt: Attempt
    ) -> AsyncGenerator[Accepted | Relevance | Finished, None]:
        worker, timeouts = attempt.worker, self._config.timeouts
        return rerank(self._network, worker.peer_id, request, worker.record.addresses, timeouts, self._kept)
