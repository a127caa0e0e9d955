"""The dispatcher: serves a request through workers until it is complete. The only loop that sends a request again.

A request waits for a worker (`gateway.queueing.admission`), is tried there, and goes on elsewhere when that fails, from
where its client is (`progress.py`). Before the first token a second worker may be asked beside a late one
(`hedging.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from gateway.dispatch.attempt import Attempt
from gateway.dispatch.failure_policy import FailurePolicy
from gateway.dispatch.hedging import Hedging
from gateway.dispatch.generate_progress import EmbedProgress, GenerateProgress, Progress, together
from gateway.dispatch.refusals import Refusals
from gateway.dispatch.request_trace import RequestTrace
from gateway.dispatch.watch import Watch
from gateway.interface import Caller, EmbeddingEvent, GenerationEvent, Waiting
from gateway.membership.table import PeerTable
from gateway.observability.reports import CANCELLED, Observer
from gateway.queueing.admission import Admission, Ticket
from gateway.routing.choose import WorkerChoice
from gateway.routing.roster import is_served, obstacle
from gateway.routing.route_query import RouteQuery, route_query_of
from p2pnet.client import embed, generate
from p2pnet.config import ExchangeTimeouts
from p2pnet.errors import (
    Busy,
    DeadlineExceeded,
    Draining,
    ModelNotFound,
    NotAllowed,
    NoWorker,
    P2PNetError,
    RequestError,
    WorkerFailed,
)
from p2pnet.flow.interleaving import interleaved
from p2pnet.messages import Accepted, Embedding, EmbedRequest, Finished, GenerateRequest, TextDelta
from p2pnet.network.interface import Network

logger = logging.getLogger(__name__)

WAIT_S = 30.0
"""How long a request waits for a worker, at its beginning and again after each failure in mid-answer. Clients give up
after one to ten minutes; whoever waits this long is better told to come back."""

WAITING_NOTE_S = 8.0
"""How often a waiting client is told its position: before the surfaces' own keep-alive, which would say less."""

RECHECK_S = 0.5
"""An answer that no worker of its digest can go on with is looked at again this often: one may have come."""


@dataclass(frozen=True)
class DispatchConfig:
    wait_s: float = WAIT_S
    timeouts: ExchangeTimeouts = field(default_factory=ExchangeTimeouts)


Choose = Callable[[RouteQuery, Collection[str]], WorkerChoice | None]
"""A worker for a request that none of the given ones can serve; None when there is none at this moment."""

AnyRequest = GenerateRequest | EmbedRequest
AnyEvent = Accepted | TextDelta | Embedding | Finished
AnyProgress = Progress[Any, Any]
"""Text and vectors take the same way; `run` and `embed` know which it is."""


@dataclass(frozen=True)
class _Step:
    """What is asked for next."""

    request: AnyRequest
    query: RouteQuery
    is_by_text: bool = False


class _Running:
    """An attempt and its stream of events."""

    def __init__(self, attempt: Attempt, stream: AsyncGenerator[Any, None]) -> None:
        self.attempt = attempt
        self.stream = stream
        self.is_over = False

    async def opening(self) -> list[AnyEvent]:
        """Its events up to the first part of the answer."""
        events: list[AnyEvent] = []
        while (event := await self.attempt.next(self.stream)) is not None:
            events.append(event)
            if not (isinstance(event, Accepted) or (isinstance(event, TextDelta) and event.is_prompt)):
                break
        return events


class Dispatcher:
    """Serves requests through the workers of a network. `run` is a `service.Generate`, `embed` a `service.Embed`."""

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
    ) -> None:
        self._network = network
        self._table = table
        self._admission = admission
        self._watch = watch
        self._choose = choose
        self._config = config or DispatchConfig()
        self._observe = observe
        self._now_s = now_s
        self.hedging = Hedging()

    def run(self, request: GenerateRequest, caller: Caller) -> AsyncGenerator[GenerationEvent, None]:
        """Waiting*, Routed, Accepted, TextDelta*, Finished. Raises RequestError (ModelNotFound, FeatureMissing when
        nobody can do what is asked), Busy, NoWorker, DeadlineExceeded, WorkerFailed when the request itself makes
        workers fail."""
        trace = RequestTrace(request, caller, self._now_s)
        self.hedging.note_request()
        return self._reported(self._serve(GenerateProgress(request), caller, trace), trace)

    def embed(self, request: EmbedRequest, caller: Caller) -> AsyncGenerator[EmbeddingEvent, None]:
        """Waiting*, Routed, Accepted, Embedding for each input in any order, Finished. Raises as `run`."""
        trace = RequestTrace(request, caller, self._now_s)
        return self._reported(self._serve(EmbedProgress(request), caller, trace), trace)

    async def _reported(self, events: AsyncGenerator[Any, None], trace: RequestTrace) -> AsyncGenerator[Any, None]:
        """The same events; once they are over, whoever wants to know is told what happened."""
        error: BaseException | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    trace.note_event(event)
                    yield event
        except BaseException as caught:
            error = caught
            raise
        finally:
            self._observe(trace.report(error))

    async def _serve(
        self, progress: AnyProgress, caller: Caller, trace: RequestTrace, index: int | None = None
    ) -> AsyncGenerator[Any, None]:
        """Try until the answer is complete. `index` is which of several answers this is, once they go on apart."""
        refusals = Refusals(self._now_s)
        policy = FailurePolicy(trace.model)
        wait_s = self._wait_s(caller)
        deadline_s = self._now_s() + wait_s
        is_sent_back = False
        while not progress.is_over:
            step = await self._next_step(progress, caller, deadline_s, policy)
            is_urgent = progress.has_begun or is_sent_back
            ticket = Ticket(step.query, caller, deadline_s, refusals, is_urgent, is_patient=wait_s > 0)
            async with aclosing(self._wait(ticket, trace, policy)) as waiting:
                async for waited in waiting:
                    if isinstance(waited, Waiting):
                        yield waited
            assert isinstance(waited, WorkerChoice)
            note = _Notes(refusals, trace, index)
            has_moved = False
            try:
                async with aclosing(self._try(step, waited, progress, note)) as events:
                    async for event in events:
                        has_moved = has_moved or isinstance(event, TextDelta | Embedding)
                        yield event
                continue
            except P2PNetError as error:
                failed = error
            if has_moved:
                policy = FailurePolicy(trace.model)
                deadline_s = self._now_s() + wait_s
            is_sent_back = isinstance(failed, Busy)
            policy.note(failed, progress.has_begun)
            if isinstance(progress, GenerateProgress) and progress.is_splittable:
                async with aclosing(self._serve_apart(progress, caller, trace)) as events:
                    async for event in events:
                        yield event
                return

    async def _serve_apart(
        self, progress: GenerateProgress, caller: Caller, trace: RequestTrace
    ) -> AsyncGenerator[Any, None]:
        """Several answers that came from one worker go on, each by itself, wherever there is room."""
        parts = progress.split()
        served = [self._serve(part, caller, trace, index) for index, part in enumerate(parts)]
        async with aclosing(interleaved(served)) as events:
            async for event in events:
                if not isinstance(event, Waiting):
                    yield event
        yield together(parts)

    async def _next_step(
        self, progress: AnyProgress, caller: Caller, deadline_s: float, policy: FailurePolicy
    ) -> _Step:
        """The request for what is left, at a worker with the same digest, else from its text. Waits while neither kind
        of worker is there but may come. Raises why the request cannot be served at all."""
        while True:
            request = progress.continuation()
            query = route_query_of(request)
            roster = self._table.roster
            text = progress if isinstance(progress, GenerateProgress) else None
            if (text is None or text.can_go_on_by_ids) and is_served(roster, query):
                return _Step(request, query)
            by_text = None if text is None else text.continuation_by_text()
            if by_text is not None and is_served(roster, text_query := route_query_of(by_text)):
                return _Step(by_text, text_query, is_by_text=True)
            if not progress.has_begun:
                await self._check_possible(query, caller)
                return _Step(request, query)
            if self._now_s() >= deadline_s:
                in_vain = DeadlineExceeded if self._wait_s(caller) > 0 else NoWorker
                raise policy.verdict(in_vain(f"No worker came that can go on with this answer of {query.model}."))
            await asyncio.sleep(RECHECK_S)

    def _wait_s(self, caller: Caller) -> float:
        return self._config.wait_s if caller.wait_s is None else caller.wait_s

    async def _check_possible(self, query: RouteQuery, caller: Caller) -> None:
        """Raises why nobody will ever serve this; returns when somebody may come who does."""
        if is_served(self._table.roster, query):
            return
        await self._table.look_up(query.model)
        if is_served(self._table.roster, query):
            return
        if (error := obstacle(self._table.workers, query)) is not None:
            raise error
        if not caller.wait_s and not self._table.has_known(query.model):
            raise ModelNotFound(f"The model {query.model} does not exist on this network.", "model")

    async def _wait(
        self, ticket: Ticket, trace: RequestTrace, policy: FailurePolicy
    ) -> AsyncGenerator[Waiting | WorkerChoice, None]:
        """The choice of a worker, once; before it, now and then, the position in the queue."""
        if (choice := self._admission.admit_now(ticket)) is not None:
            yield choice
            return
        began_s = self._now_s()
        entering = asyncio.ensure_future(self._admission.admit(ticket))
        is_taken = False
        try:
            while not (await asyncio.wait({entering}, timeout=WAITING_NOTE_S))[0]:
                position = self._admission.position(ticket)
                if position is not None:
                    yield Waiting(position, self._admission.estimate_s(ticket))
            try:
                choice = entering.result()
            except (Busy, NoWorker, DeadlineExceeded) as error:
                raise policy.verdict(error) from None
            trace.note_queued(self._now_s() - began_s)
            is_taken = True
            yield choice
        finally:
            if not is_taken:
                await self._leave(entering, ticket)

    async def _leave(self, entering: asyncio.Future[WorkerChoice], ticket: Ticket) -> None:
        """The client has gone while it waited; a slot that it was given in this moment is given back."""
        entering.cancel()
        await asyncio.wait({entering})
        if not entering.cancelled() and entering.exception() is None:
            self._admission.give_back(ticket, entering.result())

    async def _try(
        self, step: _Step, choice: WorkerChoice, progress: AnyProgress, note: _Notes
    ) -> AsyncGenerator[Any, None]:
        """One attempt, or two beside one another until the first token. Raises what the worker failed with."""
        rivals = [self._start(step, choice)]
        trace = note.trace
        try:
            running, opening = await self._first_token(step, rivals, note)
            progress.begin(running.attempt.card, step.is_by_text)
            routed = trace.routed(running.attempt)
            try:
                for event in opening:
                    for given in progress.take(event):
                        if not trace.is_routed:
                            trace.is_routed = True
                            yield routed
                        yield given
                while (following := await running.attempt.next(running.stream)) is not None:
                    for given in progress.take(following):
                        yield given
            except P2PNetError as error:
                if not progress.is_over:
                    trace.note_broken()
                await self._end(running, note, error)
                raise
        finally:
            for each in rivals:
                await self._end(each, note)

    async def _first_token(self, step: _Step, rivals: list[_Running], note: _Notes) -> tuple[_Running, list[AnyEvent]]:
        """The attempt that has the first part of the answer first, and its events until then. Whoever else was asked
        is told to stop. Raises the error of the last one when all fail."""
        first = rivals[0]
        if isinstance(step.request, EmbedRequest) or len(self._table.roster.of(step.query.key)) < 2:
            return first, await self._opening(first, note)  # there is no second one, and a task costs time
        delay_s = self.hedging.delay_s(step.query.key)
        openings = {asyncio.ensure_future(self._opening(first, note)): first}
        try:
            done, _ = await asyncio.wait(openings, timeout=delay_s)
            if not done and (second := self._second(step, first, note.refusals)) is not None:
                rivals.append(second)
                openings[asyncio.ensure_future(self._opening(second, note))] = second
            failed: P2PNetError | None = None
            while openings:
                done, _ = await asyncio.wait(openings, return_when=asyncio.FIRST_COMPLETED)
                for opening in done:
                    running = openings.pop(opening)
                    try:
                        return running, opening.result()
                    except P2PNetError as error:
                        failed = error
            assert failed is not None
            raise failed
        finally:
            for opening in openings:
                opening.cancel()
            if openings:
                for opening in (await asyncio.wait(openings))[0]:
                    _ = opening.cancelled() or opening.exception()  # whatever it is, it comes too late
            for loser in openings.values():
                self._note_first_token(loser.attempt)  # it took at least as long
                await self._end(loser, note)

    async def _opening(self, running: _Running, note: _Notes) -> list[AnyEvent]:
        try:
            events = await running.opening()
        except P2PNetError as error:
            await self._end(running, note, error)
            raise
        self._note_first_token(running.attempt)
        return events

    def _second(self, step: _Step, first: _Running, refusals: Refusals) -> _Running | None:
        """Another worker for what the first one is late with, where that takes a free slot from nobody."""
        if self._admission.waiting(step.query.model):
            return None
        exclude = {first.attempt.worker.peer_id, *refusals}
        choice = self._choose(step.query, exclude)
        if choice is None or choice.worker.pressure() >= choice.worker.slots or not self.hedging.spend():
            return None
        choice.worker.reserve(step.query.key, self._now_s())
        return self._start(step, choice, is_hedge=True)

    def _note_first_token(self, attempt: Attempt) -> None:
        seconds = attempt.first_token_s
        self.hedging.note_first_token(attempt.key, self._now_s() - attempt.began_s if seconds is None else seconds)

    def _start(self, step: _Step, choice: WorkerChoice, is_hedge: bool = False) -> _Running:
        """Ask a worker that has been reserved."""
        attempt = Attempt(choice, step.query.key, self._now_s(), self._now_s, is_hedge)
        self._watch.add(attempt)
        return _Running(attempt, self._stream(attempt, step))

    def _stream(self, attempt: Attempt, step: _Step) -> AsyncGenerator[Any, None]:
        worker, timeouts = attempt.worker, self._config.timeouts
        addresses = worker.record.addresses
        if isinstance(step.request, EmbedRequest):
            return embed(self._network, worker.peer_id, step.request, addresses, timeouts)
        limit = step.request.max_tokens or attempt.card.context_length
        return generate(self._network, worker.peer_id, step.request, addresses, timeouts, max_tokens=limit)

    async def _end(self, running: _Running, note: _Notes, error: P2PNetError | None = None) -> None:
        """Close an attempt, give its slot back, note how it went. Idempotent."""
        if running.is_over:
            return
        running.is_over = True
        attempt = running.attempt
        self._watch.remove(attempt)
        await running.stream.aclose()
        outcome = attempt.finish_reason or (CANCELLED if error is None else error.code)
        note.trace.note_attempt(attempt.end(outcome), note.index)
        self._note_health(attempt, None if attempt.finish_reason else error)
        if error is not None and not attempt.finish_reason:
            logger.info("%s: %s: %s (%s)", note.trace.request_id, attempt.worker.peer_id, error, error.code)
            if not isinstance(error, Busy):
                note.refusals.note(attempt.worker.peer_id, error)
        self._admission.wake(attempt.key[0])

    def _note_health(self, attempt: Attempt, error: P2PNetError | None) -> None:
        worker, now_s = attempt.worker, self._now_s()
        if attempt.finish_reason:
            worker.health.note_success()
            worker.note_taken(attempt.key)
            worker.pace(attempt.key).durations_s.note(now_s - attempt.began_s)
        elif isinstance(error, Busy):
            worker.note_full(attempt.key, now_s)
            worker.health.note_release()
        elif error is None or isinstance(error, RequestError | Draining | NotAllowed):
            worker.health.note_release()
        else:
            worker.health.note_failure(now_s, error.code, is_gone=not isinstance(error, WorkerFailed))


@dataclass(frozen=True)
class _Notes:
    """Where an attempt's end is noted. `index` is which of several answers it was for."""

    refusals: Refusals
    trace: RequestTrace
    index: int | None
