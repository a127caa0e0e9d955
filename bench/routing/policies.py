"""Ways to choose a worker, for `bench.routing.sim`: ours, the usual ones, and one that knows the truth.

All of them pass over workers that are known to be full or that failed lately; they differ in whom they take of the
others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from weakref import WeakKeyDictionary

from bench.routing.machine import Job
from bench.routing.scenario import KEY
from bench.routing.simulated_gateway import Gateway, Policy
from gateway.peers.worker import Worker
from gateway.routing.choose import SAMPLE, choose
from gateway.routing.recent_choices import RecentChoices

DRAWS = 16
RESORT_S = 0.25


def ours(has_affinity: bool = True, sample: int = SAMPLE) -> Policy:
    """As the gateway does it."""
    remembered: WeakKeyDictionary[Gateway, RecentChoices] = WeakKeyDictionary()

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        query = job.query if has_affinity else replace(job.query, affinity=None)
        recent = remembered.setdefault(gateway, RecentChoices())
        choice = choose(gateway.roster, query, gateway.now_s, gateway.rng, job.failed_at, sample, recent)
        if choice is None:
            return None
        recent.note(query.key, choice.worker)
        return choice.worker

    return pick


def at_random() -> Policy:
    """Any worker, regardless of its size."""

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        return next(_drawn(gateway, job), None)

    return pick


def round_robin() -> Policy:
    """One after the other."""
    turns: WeakKeyDictionary[Gateway, int] = WeakKeyDictionary()

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        workers = gateway.roster.of(KEY)
        begin = turns.get(gateway, gateway.rng.randrange(1 << 20))
        for step in range(len(workers)):
            worker = workers[(begin + step) % len(workers)]
            if _is_ready(gateway, job, worker):
                turns[gateway] = begin + step + 1
                return worker
        return None

    return pick


def least_loaded_record() -> Policy:
    """The one whose load record says that it has the fewest requests for each slot; of equals any."""
    orders: WeakKeyDictionary[Gateway, tuple[float, list[tuple[float, float, Worker]]]] = WeakKeyDictionary()

    def order(gateway: Gateway) -> list[tuple[float, float, Worker]]:
        sorted_s, known = orders.get(gateway, (-1.0, []))
        now_s = gateway.now_s
        if now_s - sorted_s > RESORT_S:
            recorded = gateway.recorded
            known = [(recorded.get(w.peer_id, 0.0), gateway.rng.random(), w) for w in gateway.roster.of(KEY)]
            known.sort(key=lambda entry: entry[:2])
            orders[gateway] = (now_s, known)
        return known

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        return next((worker for _, _, worker in order(gateway) if _is_ready(gateway, job, worker)), None)

    return pick


def two_choices() -> Policy:
    """Of two at random the one with the fewer requests of this gateway's own for each slot."""

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        drawn = _drawn(gateway, job)
        pair = [worker for worker in (next(drawn, None), next(drawn, None)) if worker is not None]
        return min(pair, key=lambda worker: worker.in_flight / worker.slots, default=None)

    return pick


def oracle() -> Policy:
    """The fastest for this request of all that truly have room. Nobody can know this much: a bound."""

    def pick(gateway: Gateway, job: Job) -> Worker | None:
        best: tuple[float, Worker | None] = (float("inf"), None)
        for worker in gateway.roster.of(KEY):
            machine = gateway.fleet.ever[worker.peer_id]
            if machine.is_alive and len(machine.running) < machine.slots and _is_ready(gateway, job, worker):
                count = max(len(machine.running), worker.in_flight)
                cost = (job.prompt + job.answer) * machine.step_s(count + 1)
                best = min(best, (cost, worker), key=lambda entry: entry[0])
        return best[1]

    return pick


POLICIES: dict[str, Callable[[], Policy]] = {
    "random": at_random,
    "round robin": round_robin,
    "least loaded record": least_loaded_record,
    "two choices": two_choices,
    "ours": ours,
    "oracle": oracle,
}
VARIANTS: dict[str, Callable[[], Policy]] = {
    "ours, no affinity": lambda: ours(has_affinity=False),
    "ours, 2 compared": lambda: ours(sample=2),
    "ours, 4 compared": lambda: ours(sample=4),
    "ours, 16 compared": lambda: ours(sample=16),
}
"""Not for the grid."""

NEEDS_RECORDS = frozenset({"least loaded record", "ours"})


def _is_ready(gateway: Gateway, job: Job, worker: Worker) -> bool:
    now_s = gateway.now_s
    return worker.has_room(KEY, now_s) and worker.health_of(KEY).may_take(now_s) and worker.peer_id not in job.failed_at


def _drawn(gateway: Gateway, job: Job) -> Iterator[Worker]:
    """Ready workers, at random; all of them are looked at once too many were not."""
    workers = gateway.roster.of(KEY)
    for _ in range(DRAWS):
        if workers and _is_ready(gateway, job, worker := gateway.rng.choice(workers)):
            yield worker
    ready = [worker for worker in workers if _is_ready(gateway, job, worker)]
    while ready:
        yield gateway.rng.choice(ready)
