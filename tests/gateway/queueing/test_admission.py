"""Admission as stories: who gets which slot, who waits, who is sent away, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import pytest

from gateway.interface import Caller
from gateway.peers.health import State
from gateway.peers.worker import Worker
from gateway.queueing.admission import MAX_QUEUES, Admission, QueueLimits
from gateway.queueing.model_queue import MAX_FRONT, MAX_FRONT_REFUSED, MAX_SWEEP_REFUSED, RATE_WINDOW_S
from gateway.queueing.ticket import Ticket
from gateway.routing.choose import WorkerChoice
from gateway.routing.route_query import RouteQuery
from p2pnet.errors import Busy, DeadlineExceeded, NoWorker, P2PNetError
from tests.stories import capability, card, peer, settle

DEADLINE_S = 60.0
WAIT_S = 20.0
AT_ONCE = 10
"""Turns of the event loop that pass long before the next tick."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Fleet:
    """Workers, and the simplest choice among them: the first that can and may."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.workers: list[Worker] = []
        self.calls = 0
        self.admission = Admission(self.choose, self.is_served, self.clock)

    def limit(self, limits: QueueLimits) -> None:
        self.admission = Admission(self.choose, self.is_served, self.clock, limits)

    def add(self, name: str, *models: str, slots: int = 1, **changes: Any) -> Worker:
        cards = tuple(card(model, **changes) for model in models or ("tiny",))
        worker = Worker(capability(peer(name), slots=slots * len(cards)))
        worker.record = capability(peer(name), slots=slots * len(cards), models=cards)
        self.workers.append(worker)
        return worker

    def choose(self, query: RouteQuery, exclude: Collection[str]) -> WorkerChoice | None:
        self.calls += 1
        now_s = self.clock()
        for worker in self.workers:
            if self.can(worker, query) and worker.peer_id not in exclude and worker.has_room(query.key, now_s):
                return WorkerChoice(worker, "first")
        return None

    def is_served(self, query: RouteQuery) -> bool:
        return any(self.can(worker, query) for worker in self.workers)

    def can(self, worker: Worker, query: RouteQuery) -> bool:
        card = worker.card(query.key)
        return (
            card is not None
            and query.digest in (None, card.digest)
            and query.features <= set(card.features)
            and (query.max_tokens or 0) <= card.context_length
        )

    def ticket(
        self,
        model: str = "tiny",
        caller: str = "someone",
        priority: int = 0,
        urgent: bool = False,
        patient: bool = True,
        **query: Any,
    ) -> Ticket:
        deadline_s = self.clock() + (DEADLINE_S if patient else 0)
        return Ticket(RouteQuery(model, **query), Caller(caller, priority), deadline_s, set(), urgent, patient)

    def finish(self, choice: WorkerChoice, ticket: Ticket) -> None:
        """The request is over: its slot is free, and admission is told."""
        choice.worker.release(ticket.query.key)
        self.admission.wake(ticket.query.model)

    @property
    def in_flight(self) -> int:
        return sum(worker.in_flight for worker in self.workers)


class LeavesMeanwhile(Fleet):
    """A client goes away while it is asked, the given number of times, whether anybody is able."""

    def __init__(self) -> None:
        super().__init__()
        self.leaving: asyncio.Task[WorkerChoice] | None = None
        self.asks_left = 0

    def is_served(self, query: RouteQuery) -> bool:
        self.asks_left -= 1
        if self.leaving is not None and not self.asks_left:
            self.leaving.cancel()
        return super().is_served(query)


Enter = Callable[..., asyncio.Task[WorkerChoice]]


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
async def enter(fleet: Fleet) -> AsyncIterator[Enter]:
    """`enter(ticket)` asks for admission in a task, which is cancelled in the end."""
    running: set[asyncio.Task[WorkerChoice]] = set()

    def start(ticket: Ticket) -> asyncio.Task[WorkerChoice]:
        task = asyncio.create_task(fleet.admission.admit(ticket))
        running.add(task)
        task.add_done_callback(running.discard)
        return task

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def waits(fleet: Fleet, enter: Enter, *tickets: Ticket) -> list[asyncio.Task[WorkerChoice]]:
    """Enter all, one after another, and see that all wait."""
    tasks = []
    for ticket in tickets:
        tasks.append(enter(ticket))
        await settle(lambda ticket=ticket: fleet.admission.position(ticket) is not None)  # type: ignore[misc]
    return tasks


async def soon(result: Awaitable[WorkerChoice]) -> WorkerChoice:
    return await asyncio.wait_for(result, WAIT_S)


def nothing_is_left(fleet: Fleet) -> bool:
    """Neither in the books nor with the event loop: with its last owner gone, the admission is gone."""
    admission, fleet.admission = weakref.ref(fleet.admission), Admission(fleet.choose, fleet.is_served, fleet.clock)
    gc.collect()
    return admission() is None


def step(coroutine: Any) -> Any:
    """What a coroutine returns that never waits."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def test_a_free_slot_is_given_without_a_task_switch(fleet: Fleet) -> None:
    worker = fleet.add("a", slots=2)
    choices = [step(fleet.admission.admit(fleet.ticket())) for _ in range(2)]
    assert [choice.worker for choice in choices] == [worker, worker]
    assert (worker.in_flight_of(("tiny", "generate")), fleet.calls) == (2, 2)
    assert fleet.admission.admit_now(fleet.ticket()) is None
    assert worker.in_flight == 2


async def test_who_finds_no_slot_waits_for_one(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    second, third = fleet.ticket(), fleet.ticket()
    tasks = await waits(fleet, enter, second, third)
    assert [fleet.admission.position(ticket) for ticket in (first, second, third)] == [None, 1, 2]
    assert fleet.admission.waiting("tiny") == 2
    fleet.finish(choice, first)
    assert (await soon(tasks[0])).worker is choice.worker
    assert not tasks[1].done()
    assert [fleet.admission.position(ticket) for ticket in (second, third)] == [None, 1]
    assert fleet.in_flight == 1


async def test_nobody_passes_those_that_wait(fleet: Fleet, enter: Enter) -> None:
    """A slot that is free but not yet announced belongs to who waits."""
    worker = fleet.add("a")
    choice = await fleet.admission.admit(fleet.ticket())
    tasks = await waits(fleet, enter, fleet.ticket(caller="patient"))
    worker.release(("tiny", "generate"))
    newcomer = enter(fleet.ticket(caller="late"))
    assert (await soon(tasks[0])).worker is choice.worker
    await settle(lambda: fleet.admission.waiting("tiny") == 1)
    assert not newcomer.done()


async def test_each_slot_is_given_once(fleet: Fleet, enter: Enter) -> None:
    """A hundred wait, seven slots come at once, and everybody tells of it."""
    tickets = [fleet.ticket(caller=f"caller {number % 10}") for number in range(100)]
    tasks = await waits(fleet, enter, *tickets)
    for name in "abc":
        fleet.add(name, slots=2)
    fleet.add("d")
    for _ in range(20):
        fleet.admission.wake("tiny")
        fleet.admission.wake()
    await settle(lambda: sum(task.done() for task in tasks) == 7)
    assert Counter(task.result().worker.peer_id for task in tasks if task.done()) == Counter(
        {peer("a").peer_id: 2, peer("b").peer_id: 2, peer("c").peer_id: 2, peer("d").peer_id: 1}
    )
    assert (fleet.in_flight, fleet.admission.waiting("tiny")) == (7, 93)


async def test_all_are_served_in_the_end(fleet: Fleet, enter: Enter) -> None:
    """Three times as many as the front of a queue, for two workers, one after another."""
    fleet.add("a", slots=3)
    fleet.add("b")
    tickets = [fleet.ticket(caller=f"caller {number % 7}") for number in range(3 * MAX_FRONT)]

    async def use(ticket: Ticket) -> str:
        choice = await enter(ticket)
        await asyncio.sleep(0)
        assert choice.worker.in_flight <= choice.worker.slots
        fleet.finish(choice, ticket)
        return choice.worker.peer_id

    used = await asyncio.wait_for(asyncio.gather(*(use(ticket) for ticket in tickets)), WAIT_S)
    assert len(used) == len(tickets)
    assert (fleet.in_flight, fleet.admission.waiting_by_model()) == (0, {})


async def test_a_worker_that_comes_within_the_deadline_serves(fleet: Fleet, enter: Enter) -> None:
    (task,) = await waits(fleet, enter, fleet.ticket("new"))
    worker = fleet.add("a", "new")
    fleet.admission.wake("new")
    assert (await soon(task)).worker is worker


async def test_nobody_needs_to_say_that_time_has_passed(fleet: Fleet, enter: Enter) -> None:
    """A worker that was full is tried again by itself."""
    worker = fleet.add("a")
    worker.note_full(("tiny", "generate"), fleet.clock())
    (task,) = await waits(fleet, enter, fleet.ticket())
    fleet.clock.now_s += 0.2
    assert (await soon(task)).worker is worker


async def test_no_model_blocks_another(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a", "slow")
    fleet.add("b", "quick")
    await fleet.admission.admit(fleet.ticket("slow"))
    await waits(fleet, enter, *(fleet.ticket("slow") for _ in range(20)), *(fleet.ticket("absent") for _ in range(20)))
    for _ in range(3):
        ticket = fleet.ticket("quick")
        fleet.finish(step(fleet.admission.admit(ticket)), ticket)
    assert fleet.admission.waiting_by_model() == {"slow": 20, "absent": 20}


async def test_very_many_models_are_looked_at_in_turn(fleet: Fleet, enter: Enter) -> None:
    count = 2 * MAX_QUEUES + 10
    tickets = [fleet.ticket(f"model {number}", caller=str(number % 50)) for number in range(count)]
    tasks = [enter(ticket) for ticket in tickets]
    await settle(lambda: len(fleet.admission.waiting_by_model()) == count)
    fleet.add("a", *fleet.admission.waiting_by_model())
    fleet.calls = 0
    for calls in (MAX_QUEUES, 2 * MAX_QUEUES, count):
        fleet.admission.wake()
        assert fleet.calls == calls
    await asyncio.wait_for(asyncio.wait(tasks), WAIT_S)
    assert fleet.in_flight == count


async def test_one_model_has_a_queue_for_each_of_its_tasks(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a", "both")
    fleet.add("b", "both", task="embed")
    await fleet.admission.admit(fleet.ticket("both"))
    (task,) = await waits(fleet, enter, fleet.ticket("both"))
    assert step(fleet.admission.admit(fleet.ticket("both", task="embed"))).worker is fleet.workers[1]
    (embeds,) = await waits(fleet, enter, fleet.ticket("both", task="embed"))
    assert (fleet.admission.waiting("both"), fleet.admission.waiting_by_model()) == (2, {"both": 2})
    fleet.finish(WorkerChoice(fleet.workers[1], ""), fleet.ticket("both", task="embed"))
    await soon(embeds)
    assert not task.done()


async def test_a_rare_need_holds_nobody_up(fleet: Fleet, enter: Enter) -> None:
    """Neither those that wait behind it nor those that come then, and it is served itself as soon as it can be."""
    fleet.add("a")
    rare = fleet.ticket(features=frozenset({"json"}))
    (task,) = await waits(fleet, enter, rare)
    newcomer = enter(fleet.ticket())
    await settle(newcomer.done, AT_ONCE)
    long, short = await waits(fleet, enter, fleet.ticket(max_tokens=10**6), fleet.ticket(max_tokens=10))
    fleet.finish(newcomer.result(), rare)
    await settle(short.done, AT_ONCE)
    assert not long.done()
    able = fleet.add("b", features=("json",))
    fleet.admission.wake("tiny")
    assert (await soon(task)).worker is able


async def test_many_strange_needs_hide_nobody(fleet: Fleet, enter: Enter) -> None:
    """More callers than a tick asks for, each with weights that nobody has, and one behind them that can be served."""
    fleet.add("a")
    choice = await fleet.admission.admit(fleet.ticket())
    strange = [
        fleet.ticket(caller=f"stranger {number}", priority=3, digest=f"sha256:{number:064x}")
        for number in range(3 * MAX_SWEEP_REFUSED)
    ]
    await waits(fleet, enter, *strange)
    (task,) = await waits(fleet, enter, fleet.ticket())
    fleet.calls = 0
    fleet.finish(choice, fleet.ticket())
    assert fleet.calls == MAX_FRONT_REFUSED
    assert (await soon(task)).worker is choice.worker
    assert fleet.admission.waiting("tiny") == len(strange)


async def test_needs_that_are_alike_are_asked_for_once(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    await fleet.admission.admit(fleet.ticket())
    needs: list[dict[str, Any]] = [{}, {"max_tokens": 5}, {"max_tokens": 9}]
    await waits(fleet, enter, *(fleet.ticket(caller=str(number), **needs[number % 3]) for number in range(60)))
    fleet.calls = 0
    fleet.admission.wake("tiny")
    assert fleet.calls == 1


async def test_who_was_failed_by_a_worker_is_not_sent_there_again(fleet: Fleet, enter: Enter) -> None:
    failed = fleet.add("a")
    ticket = fleet.ticket()
    ticket.exclude = {failed.peer_id}
    (task,) = await waits(fleet, enter, ticket)
    other = await soon(enter(fleet.ticket(caller="other")))
    assert other.worker is failed
    worker = fleet.add("b")
    fleet.admission.wake("tiny")
    assert (await soon(task)).worker is worker


async def test_the_urgent_go_first(fleet: Fleet, enter: Enter) -> None:
    fleet.limit(QueueLimits(max_waiting=8))
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    others = await waits(fleet, enter, *(fleet.ticket(caller=str(number), priority=3) for number in range(8)))
    urgent = [fleet.ticket(urgent=True, tokens=10**6) for _ in range(12)]
    tasks = await waits(fleet, enter, *urgent)
    assert [fleet.admission.position(ticket) for ticket in urgent] == list(range(1, 13))
    for number, task in enumerate([*tasks, *others]):
        fleet.finish(choice, first)
        choice = await soon(task)
        assert sum(task.done() for task in [*tasks, *others]) == number + 1


async def test_callers_are_served_in_turns(fleet: Fleet, enter: Enter) -> None:
    """One with forty requests, then one with four: the second is not behind the first."""
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    greedy = [fleet.ticket(caller="greedy", tokens=500) for _ in range(40)]
    modest = [fleet.ticket(caller="modest", tokens=500) for _ in range(4)]
    tasks = await waits(fleet, enter, *greedy, *modest)
    for _ in range(9):
        fleet.finish(choice, first)
    await settle(lambda: sum(task.done() for task in tasks) == 9)
    served = [task.done() for task in tasks]
    assert (sum(served[:40]), sum(served[40:])) == (5, 4)


async def test_a_higher_priority_gets_more(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    low = [fleet.ticket(caller="low", tokens=1024) for _ in range(30)]
    high = [fleet.ticket(caller="high", tokens=1024, priority=1) for _ in range(30)]
    tasks = await waits(fleet, enter, *low, *high)
    for _ in range(25):
        fleet.finish(choice, first)
    await settle(lambda: sum(task.done() for task in tasks) == 25)
    assert (sum(task.done() for task in tasks[:30]), sum(task.done() for task in tasks[30:])) == (5, 20)


async def test_the_deadline_passes_while_all_are_busy(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    await fleet.admission.admit(fleet.ticket())
    (task,) = await waits(fleet, enter, fleet.ticket())
    fleet.clock.now_s += DEADLINE_S
    with pytest.raises(DeadlineExceeded, match="model tiny were busy") as raised:
        await soon(task)
    assert raised.value.retry_after_s is None
    assert fleet.in_flight == 1


async def test_the_deadline_passes_while_nobody_is_able(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    tasks = await waits(fleet, enter, fleet.ticket("absent"), fleet.ticket(features=frozenset({"json"})))
    fleet.clock.now_s += DEADLINE_S
    for task in tasks:
        with pytest.raises(DeadlineExceeded, match="No worker that can serve this request"):
            await soon(task)


@pytest.mark.parametrize(("model", "told"), [("tiny", Busy), ("absent", NoWorker)])
async def test_who_does_not_want_to_wait_is_told_how_it_is(
    fleet: Fleet, enter: Enter, model: str, told: type[P2PNetError]
) -> None:
    fleet.add("a")
    await fleet.admission.admit(fleet.ticket())
    (task,) = await waits(fleet, enter, fleet.ticket(model, patient=False))
    with pytest.raises(told):
        await soon(task)


async def test_each_has_its_own_deadline(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    (early,) = await waits(fleet, enter, fleet.ticket())
    fleet.clock.now_s += DEADLINE_S / 2
    (late,) = await waits(fleet, enter, fleet.ticket())
    fleet.clock.now_s += DEADLINE_S / 2
    with pytest.raises(DeadlineExceeded):
        await soon(early)
    fleet.finish(choice, first)
    assert (await soon(late)).worker is choice.worker


async def test_a_full_queue_says_so(fleet: Fleet, enter: Enter) -> None:
    fleet.limit(QueueLimits(max_waiting=4))
    await waits(fleet, enter, *(fleet.ticket(caller=str(number)) for number in range(4)))
    with pytest.raises(Busy, match="4 requests wait for the model tiny, 0 of them yours, and 4 may"):
        await fleet.admission.admit(fleet.ticket(caller="late"))
    await waits(fleet, enter, fleet.ticket("other"), fleet.ticket(urgent=True))


async def test_one_caller_does_not_fill_a_queue(fleet: Fleet, enter: Enter) -> None:
    fleet.limit(QueueLimits(max_waiting=8))
    await waits(fleet, enter, *(fleet.ticket(caller="greedy") for _ in range(4)))
    with pytest.raises(Busy, match="4 of them yours"):
        await fleet.admission.admit(fleet.ticket(caller="greedy"))
    await waits(fleet, enter, *(fleet.ticket(caller="modest") for _ in range(2)))
    with pytest.raises(Busy):
        await fleet.admission.admit(fleet.ticket(caller="modest"))
    await waits(fleet, enter, fleet.ticket(caller="third"))


async def test_one_caller_does_not_fill_all_queues(fleet: Fleet, enter: Enter) -> None:
    fleet.limit(QueueLimits(max_waiting=8, max_waiting_total=12))
    await waits(fleet, enter, *(fleet.ticket(f"model {number}", caller="greedy") for number in range(6)))
    with pytest.raises(Busy, match="6 requests wait here, 6 of them yours, and 12 may"):
        await fleet.admission.admit(fleet.ticket("another", caller="greedy"))
    await waits(fleet, enter, fleet.ticket("another", caller="modest"))


async def test_estimates_come_from_how_fast_the_queue_moved(fleet: Fleet, enter: Enter) -> None:
    fleet.limit(QueueLimits(max_waiting=11))
    fleet.add("a")
    first = fleet.ticket()
    choice = await fleet.admission.admit(first)
    tickets = [fleet.ticket(caller=str(number)) for number in range(11)]
    tasks = await waits(fleet, enter, *tickets)
    assert fleet.admission.estimate_s(tickets[0]) is None
    for task in tasks[:4]:
        fleet.clock.now_s += 0.5
        fleet.finish(choice, first)
        await soon(task)
    assert fleet.admission.estimate_s(tickets[3]) is None
    assert [fleet.admission.estimate_s(ticket) for ticket in tickets[4:6]] == [0.5, 1.0]
    await waits(fleet, enter, *(fleet.ticket(caller=f"next {number}") for number in range(4)))
    with pytest.raises(Busy) as raised:
        await fleet.admission.admit(fleet.ticket(caller="late"))
    assert raised.value.retry_after_s == 5.5
    fleet.clock.now_s += 1.0
    assert fleet.admission.estimate_s(tickets[4]) == 0.75
    fleet.clock.now_s += 40.0
    assert fleet.admission.estimate_s(tickets[4]) is None
    for task in tasks[4:7]:
        fleet.finish(choice, first)
        await soon(task)
    assert fleet.admission.estimate_s(tickets[7]) == RATE_WINDOW_S / 3


async def test_who_goes_away_leaves_the_queue(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    choice = await fleet.admission.admit(fleet.ticket())
    tickets = [fleet.ticket(), fleet.ticket()]
    tasks = await waits(fleet, enter, *tickets)
    tasks[0].cancel()
    await settle(lambda: fleet.admission.position(tickets[1]) == 1)
    fleet.finish(choice, tickets[0])
    assert (await soon(tasks[1])).worker is choice.worker


async def test_who_goes_away_as_its_turn_comes_gives_the_slot_back(fleet: Fleet, enter: Enter) -> None:
    """The slot goes to the next at once, and a worker on trial is not thought to be in the middle of it."""
    worker = fleet.add("a")
    choice = await fleet.admission.admit(fleet.ticket())
    worker.health.note_failure(fleet.clock(), "peer_lost")
    fleet.clock.now_s += 3.0
    tasks = await waits(fleet, enter, fleet.ticket(), fleet.ticket())
    fleet.finish(choice, fleet.ticket())
    assert (worker.in_flight, worker.health.may_take(fleet.clock())) == (1, False)
    tasks[0].cancel()
    await settle(tasks[1].done, AT_ONCE)
    assert tasks[0].cancelled()
    assert (worker.in_flight, tasks[1].result().worker) == (1, worker)
    fleet.admission.give_back(fleet.ticket(), tasks[1].result())
    assert (worker.in_flight, worker.health.state(fleet.clock())) == (0, State.TRIAL)
    assert worker.health.may_take(fleet.clock())


async def test_who_goes_away_just_before_its_turn_is_given_nothing(fleet: Fleet, enter: Enter) -> None:
    fleet.add("a")
    choice = await fleet.admission.admit(fleet.ticket())
    tasks = await waits(fleet, enter, fleet.ticket(), fleet.ticket())
    tasks[0].cancel()
    fleet.finish(choice, fleet.ticket())
    assert (await soon(tasks[1])).worker is choice.worker
    assert fleet.in_flight == 1


@pytest.mark.parametrize("first_asked", [True, False])
async def test_a_deadline_and_a_departure_at_once(first_asked: bool) -> None:
    """Whether the client goes just before or just after it is told that nobody came, and the others are told all the
    same."""
    fleet = LeavesMeanwhile()
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    tasks = [asyncio.create_task(fleet.admission.admit(fleet.ticket(caller=str(number)))) for number in range(3)]
    await settle(lambda: fleet.admission.waiting("tiny") == 3)
    leaving, *others = tasks if first_asked else (tasks[1], tasks[0], tasks[2])
    fleet.leaving = leaving
    fleet.asks_left = 2 if first_asked else 1
    fleet.clock.now_s += DEADLINE_S
    await asyncio.wait(tasks, timeout=WAIT_S)
    assert leaving.cancelled()
    assert [type(task.exception()) for task in others] == [DeadlineExceeded, DeadlineExceeded]
    assert problems == []
    assert fleet.admission.waiting_by_model() == {}


class Name(str):
    """A name of which one can see whether anybody still knows it."""


@pytest.mark.parametrize("is_served", [True, False])
async def test_names_are_forgotten(fleet: Fleet, enter: Enter, is_served: bool) -> None:
    model, caller = Name("tiny"), Name("someone")
    known = weakref.ref(model), weakref.ref(caller)
    (task,) = await waits(fleet, enter, fleet.ticket(model, caller=caller))
    if is_served:
        fleet.add("a")
        fleet.admission.wake()
        fleet.workers.clear()
    else:
        task.cancel()
    await asyncio.wait({task}, timeout=WAIT_S)
    assert task.cancelled() is not is_served
    del task, model, caller
    gc.collect()
    assert [name() for name in known] == [None, None]


async def test_a_thousand_that_go_away_leave_nothing(fleet: Fleet, enter: Enter) -> None:
    """In any order, some as they are served, of many callers and models."""
    rng = random.Random(4)
    fleet.limit(QueueLimits(max_waiting=2000, max_waiting_total=4000))
    fleet.add("a", "model 0", "model 1", slots=10)
    tickets = [
        fleet.ticket(f"model {rng.randrange(5)}", caller=f"caller {rng.randrange(50)}", urgent=rng.random() < 0.1)
        for _ in range(1000)
    ]
    tasks = [enter(ticket) for ticket in tickets]
    await settle(lambda: sum(fleet.admission.waiting_by_model().values()) == 980)
    for index in rng.sample(range(1000), 1000):
        tasks[index].cancel()
        if tasks[index].done():
            fleet.finish(tasks[index].result(), tickets[index])
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    await asyncio.wait(tasks)  # gather would keep the cancelled ones' frames
    for task, ticket in zip(tasks, tickets, strict=True):
        assert task.cancelled() or task.result()
        assert fleet.admission.position(ticket) is None
    assert (fleet.in_flight, fleet.admission.waiting_by_model()) == (0, {})
    del task, tasks, tickets
    assert nothing_is_left(fleet)
