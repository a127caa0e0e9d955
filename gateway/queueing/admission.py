"""Decides which request goes to a worker now, and which waits, in a bounded, fair queue for each model.

A worker is chosen and its slot reserved in one step, so no two requests are given the same slot. Knows which workers
there are only by asking `choose`; sends nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice

from gateway.queueing.model_queue import ModelQueue
from gateway.queueing.ticket import Ticket
from gateway.routing.choose import WorkerChoice
from gateway.routing.route_query import RouteQuery
from gateway.shares import Shares, may_take
from p2pnet.errors import Busy, DeadlineExceeded, NoWorker, P2PNetError
from p2pnet.records import FEATURE_TASKS, ModelTask

MAX_WAITING = 512
"""For one model. A queue that is served within a minute moves on by nine requests a second when it is as long as this;
a slower one is told so better at once than after that minute."""

MAX_WAITING_TOTAL = 2048
"""Of all models. Each holds its connection and its prompt: 20 MiB of them when prompts are of usual length."""

MAX_WAITING_BYTES = 48 << 20
"""What the prompts of all that wait may take of the memory: twice what 2,048 of usual length take. One caller gets half
of it when it is alone, which are six of the largest size; 250 such would be a gigabyte."""

WAKE_INTERVAL_S = 0.05
"""How often the queues are tried without anybody having said that something changed: workers that refused a request
are asked again 0.1 s later at the earliest."""

MAX_QUEUES = 256
"""Queues looked at in one go, some 6 microseconds each at least; those not looked at come first the next time."""

MAX_RETRY_AFTER_S = 60.0
"""Nobody is told to stay away for longer on the ground of an estimate."""

TASKS = ("generate", "embed", *FEATURE_TASKS)

Choose = Callable[[RouteQuery, Collection[str]], WorkerChoice | None]
"""`routing.choose` over the workers of this moment: for what is asked, without these peer ids."""


@dataclass(frozen=True)
class QueueLimits:
    """How many requests may wait, and how large all of them may be, the urgent ones not counted. Of each bound one
    caller may have as much as is still free (see `gateway.shares`)."""

    max_waiting: int = MAX_WAITING
    max_waiting_total: int = MAX_WAITING_TOTAL
    max_waiting_bytes: int = MAX_WAITING_BYTES


class Admission:
    """Gives requests their workers, one after another."""

    def __init__(
        self,
        choose: Choose,
        is_served: Callable[[RouteQuery], bool],
        now_s: Callable[[], float] = time.monotonic,
        limits: QueueLimits | None = None,
    ) -> None:
        self._choose = choose
        self._is_served = is_served
        self._now_s = now_s
        self._limits = limits or QueueLimits()
        self._queues: dict[ModelTask, ModelQueue] = {}
        self._grants: dict[Ticket, asyncio.Future[WorkerChoice]] = {}
        self._waiting = Shares(self._limits.max_waiting_total)
        """How many requests each caller has waiting, of all models, the urgent ones not counted."""
        self._bytes = Shares(self._limits.max_waiting_bytes)
        """And how large they are."""
        self._timer: asyncio.TimerHandle | None = None

    async def admit(self, ticket: Ticket) -> WorkerChoice:
        """A worker with a slot reserved for this request, to be released once. Without a task switch when one is free.

        Raises Busy when too many wait, and DeadlineExceeded when it has waited in vain. One that does not want to wait
        is told Busy where those that can serve it are busy, NoWorker where nobody is there. Cancelling it leaves the
        queue and gives back what was reserved.
        """
        choice = self.admit_now(ticket)
        return await self._wait(ticket) if choice is None else choice

    def admit_now(self, ticket: Ticket) -> WorkerChoice | None:
        """As `admit`, where nobody waits and a worker is free; None otherwise."""
        return None if ticket.query.key in self._queues else self._reserve(ticket)

    def give_back(self, ticket: Ticket, choice: WorkerChoice) -> None:
        """Give a slot back that is not used after all."""
        choice.worker.release(ticket.query.key)
        choice.worker.health_of(ticket.query.key).note_release(self._now_s())
        self.wake(ticket.query.model)

    def wake(self, model: str | None = None) -> None:
        """A worker of this model may have room now, or may have come. None: of any model; where very many models have
        somebody waiting, those not looked at in this call are within the next ticks."""
        if model is None:
            queues = self._next_queues()
        else:
            queues = [queue for task in TASKS if (queue := self._queues.get((model, task))) is not None]
        for queue in queues:
            queue.serve_front()

    def position(self, ticket: Ticket) -> int | None:
        """How many of its model's queue are served before it, and itself; None when it does not wait."""
        return self._queues[ticket.query.key].tickets.position(ticket) if ticket in self._grants else None

    def estimate_s(self, ticket: Ticket) -> float | None:
        """How long it waits from now on, if all goes on as lately; None when that is not known."""
        position = self.position(ticket)
        return None if position is None else self._queues[ticket.query.key].time_for_s(position, self._now_s())

    def waiting(self, model: str) -> int:
        return sum(len(self._queues[key].tickets) for task in TASKS if (key := (model, task)) in self._queues)

    def waiting_by_model(self) -> dict[str, int]:
        """How many wait for each model, for which anybody does."""
        waiting: Counter[str] = Counter()
        for (model, _), queue in self._queues.items():
            waiting[model] += len(queue.tickets)
        return dict(waiting)

    async def _wait(self, ticket: Ticket) -> WorkerChoice:
        grant = self._enter(ticket)
        try:
            self._serve_newcomer(ticket)
            return await grant
        except asyncio.CancelledError:
            if grant.done() and not grant.cancelled() and grant.exception() is None:
                self.give_back(ticket, grant.result())
            raise
        finally:
            if ticket in self._grants:
                self._leave(ticket)

    def _enter(self, ticket: Ticket) -> asyncio.Future[WorkerChoice]:
        assert ticket not in self._grants, "one request waits once"
        if not ticket.is_urgent:
            self._check_room(ticket)
        key = ticket.query.key
        if key not in self._queues:
            self._queues[key] = ModelQueue(self._serve, self._is_gone, self._now_s())
        self._queues[key].tickets.push(ticket, ticket.caller, ticket.query.tokens, ticket.is_urgent)
        if not ticket.is_urgent:
            self._waiting.take(ticket.caller.line)
            self._bytes.take(ticket.caller.line, ticket.size)
        loop = asyncio.get_running_loop()
        self._grants[ticket] = loop.create_future()
        if self._timer is None:
            self._timer = loop.call_later(WAKE_INTERVAL_S, self._tick)
        return self._grants[ticket]

    def _check_room(self, ticket: Ticket) -> None:
        """Raises Busy."""
        model, name, limits = ticket.query.model, ticket.caller.line, self._limits
        queue = self._queues.get(ticket.query.key)
        waiting, own = (0, 0) if queue is None else (queue.tickets.in_turn, queue.tickets.waiting_of(name))
        if not may_take(own, waiting, limits.max_waiting):
            bound = f"{waiting} requests wait for the model {model}, {own} of them yours, and {limits.max_waiting} may"
        elif not self._waiting.has_room(name):
            bound = (
                f"{self._waiting.taken} requests wait here, {self._waiting.of(name)} of them yours, and "
                f"{limits.max_waiting_total} may"
            )
        elif not self._bytes.has_room(name, ticket.size):
            bound = (
                f"the requests that wait here take {self._bytes.taken} bytes, yours {self._bytes.of(name)} of them, "
                f"and {limits.max_waiting_bytes} may be taken"
            )
        else:
            return
        raise Busy(f"The queue is full: {bound}. Try again in a moment.", self._drained_in_s(ticket.query.key))

    def _leave(self, ticket: Ticket) -> None:
        """It does not wait any more, and was not served."""
        self._queues[ticket.query.key].tickets.remove(ticket)
        self._forget(ticket)

    def _forget(self, ticket: Ticket) -> None:
        """Models' and callers' names are strangers' words: nothing is kept under them."""
        del self._grants[ticket]
        if not self._queues[ticket.query.key].tickets:
            del self._queues[ticket.query.key]
        if not ticket.is_urgent:
            self._waiting.give_back(ticket.caller.line)
            self._bytes.give_back(ticket.caller.line, ticket.size)
        if not self._grants and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        try:
            for queue in self._next_queues():
                queue.serve_whole(self._limits.max_waiting)
            now_s = self._now_s()
            for ticket in [ticket for ticket in self._grants if ticket.deadline_s <= now_s]:
                self._give_up(ticket)
        finally:
            if self._grants:
                self._timer = asyncio.get_running_loop().call_later(WAKE_INTERVAL_S, self._tick)

    def _next_queues(self) -> list[ModelQueue]:
        """All in turn, so many at a time."""
        queues = dict(islice(self._queues.items(), MAX_QUEUES))
        if len(queues) < len(self._queues):
            for key in queues:
                self._queues[key] = self._queues.pop(key)
        return list(queues.values())

    def _serve_newcomer(self, ticket: Ticket) -> None:
        """Those before it may need what is not there, and it may not."""
        queue = self._queues[ticket.query.key]
        if len(queue.tickets) > 1:
            queue.serve_front()

    def _serve(self, ticket: Ticket) -> bool:
        """Give it a slot, if there is one for it. Returns whether there was."""
        choice = self._reserve(ticket)
        if choice is None:
            return False
        self._grants[ticket].set_result(choice)
        self._queues[ticket.query.key].take(ticket, self._now_s())
        self._forget(ticket)
        return True

    def _is_gone(self, ticket: Ticket) -> bool:
        return self._grants[ticket].done()

    def _reserve(self, ticket: Ticket) -> WorkerChoice | None:
        choice = self._choose(ticket.query, ticket.exclude)
        if choice is not None:
            choice.worker.reserve(ticket.query.key, self._now_s())
        return choice

    def _give_up(self, ticket: Ticket) -> None:
        """Its deadline has passed."""
        grant = self._grants[ticket]
        drained_in_s = self._drained_in_s(ticket.query.key)
        self._leave(ticket)
        if grant.done():
            return
        grant.set_exception(_in_vain(ticket, self._is_served(ticket.query), drained_in_s))

    def _drained_in_s(self, key: ModelTask) -> float | None:
        """When those that wait now will have been served."""
        queue = self._queues.get(key)
        time_s = None if queue is None else queue.time_for_s(len(queue.tickets), self._now_s())
        return None if time_s is None else min(time_s, MAX_RETRY_AFTER_S)


def _in_vain(ticket: Ticket, is_served: bool, drained_in_s: float | None) -> P2PNetError:
    """What a request is told whose deadline has passed."""
    model = ticket.query.model
    if not ticket.is_patient:
        busy = Busy(f"All workers of the model {model} are busy. Try again in a moment.", drained_in_s)
        return busy if is_served else NoWorker(f"No worker can serve this request for the model {model} now.")
    if is_served:
        message = f"All workers of the model {model} were busy for as long as this request could wait."
        return DeadlineExceeded(f"{message} Try again in a moment.", drained_in_s)
    message = f"No worker that can serve this request for the model {model} came for as long as it could wait."
    return DeadlineExceeded(f"{message} Try again later.")
