"""Chooses the worker that a request goes to.

A function of data, `now_s` and a random generator: reads the workers it is given, changes nothing, asks nobody. A few
workers are drawn in proportion to their slots and the best is taken (after Mitzenmacher 2001, "The power of two
choices"): what a record says of a worker's load is seconds old, and everybody's picking the least loaded from it
stampedes. The numbers here were chosen with `bench/routing/sim.py`; see docs/routing.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil

from gateway.peers.worker import Worker
from gateway.routing.able import Able, Strangers
from gateway.routing.recent_choices import RecentChoices
from gateway.routing.roster import Roster
from gateway.routing.route_query import RouteQuery
from gateway.routing.scoring import Considered, Moment, Standing
from gateway.routing.weighted_sampling import WeightedGroup, weight_of

SAMPLE = 8
"""Workers compared. Two are the least that avoids a stampede when all that is known is stale; but speeds differ by an
order of magnitude, are this gateway's own knowledge, and are worth a wider look: see docs/routing.md."""

DRAWS = 24
"""Draws before all are looked at. With nine in ten full, eleven in twelve requests still find a free one."""

MAX_AFFINE_LOAD = 1.25
"""The mean load may be exceeded by this much for the sake of a known beginning (Mirrokni, Thorup, Zadimoghaddam 2018,
"Consistent hashing with bounded loads": most keys stay where they are, and nobody is overrun)."""

AFFINE_TRIES = 3
"""A beginning may be known to the next ones of its order too, which take it when the first ones are busy."""

MAX_AFFINE_DELAY = 1.5
"""A known beginning saves part of the time to the first token: who is slower than this is not worth it."""


@dataclass(frozen=True)
class WorkerChoice:
    """A worker for a request. `why` is a word or two for people."""

    worker: Worker
    why: str
    considered: tuple[Considered, ...] = ()


def choose(
    roster: Roster,
    query: RouteQuery,
    now_s: float,
    rng: random.Random,
    exclude: Collection[str] = (),
    sample: int = SAMPLE,
    recent: RecentChoices | None = None,
) -> WorkerChoice | None:
    """A worker that can do what is asked, has room and may be asked now; None when there is none at this moment.

    While a worker that has served has room, those that have served none are left out, but for their turns. `recent` is
    to whom the last requests went: without it nobody has had enough, and strangers have no turns. `exclude` are peer
    ids that have failed this request. When health or freshness leave nobody, those are asked after all that are
    otherwise able: but not while a healthy one is merely full, for then waiting is better. `sample` is how many workers
    are compared."""
    able = roster.able(query)
    if able is None:
        return None
    moment = Moment(query, able, now_s, exclude)
    ready = _draw(able.tried, moment, rng, sample) if able.tried is not None else []
    if able.tried is None or not ready:
        return _among_strangers(able, moment, rng, sample) or _look_at_all(able, moment, rng, sample)
    if able.strangers is not None and recent is not None and recent.is_strangers_turn(query.key):
        stranger = _next_stranger(able.strangers, moment, rng)
        if stranger is not None:
            return WorkerChoice(stranger, "not tried yet", tuple(moment.considered([stranger, *ready])))

    def has_share_left(worker: Worker) -> bool:
        return recent is None or recent.has_share_left(query.key, worker, len(ready))

    return _best_of_tried(able.tried, moment, list(filter(has_share_left, ready)) or ready, has_share_left)


def _best_of_tried(
    group: WeightedGroup, moment: Moment, ready: Sequence[Worker], has_share_left: Callable[[Worker], bool]
) -> WorkerChoice:
    """The best of these, or the worker where the beginning is known."""
    known = _known_beginning(group, moment, has_share_left)
    if known is None:
        return _best_of(moment, ready, f"best of {len(ready)}")
    workers = [known, *(worker for worker in ready if worker is not known)]
    considered = moment.considered(workers)
    if considered[0].expected_s <= MAX_AFFINE_DELAY * min(each.expected_s for each in considered):
        return WorkerChoice(known, "same beginning", tuple(considered))
    return _best_of(moment, workers, f"best of {len(workers)}")


def _draw(group: WeightedGroup, moment: Moment, rng: random.Random, sample: int) -> list[Worker]:
    """Some different workers that are ready: of all if they are few, else those found soon enough, or by a look at all.
    Where none is, those that have room by their own word."""
    found: dict[str, Worker] = {}
    if len(group.workers) > DRAWS:
        for _ in range(DRAWS):
            worker = group.draw(rng)
            if worker.peer_id not in found and moment.is_ready(worker):
                found[worker.peer_id] = worker
                if len(found) == sample:
                    break
    return list(found.values()) or _sampled(_with_room(group, moment), rng, sample)


def _with_room(group: WeightedGroup, moment: Moment) -> list[Worker]:
    by_standing: dict[Standing, list[Worker]] = {Standing.READY: [], Standing.NEW: []}
    for worker in group.workers:
        if (standing := moment.standing(worker)) in by_standing:
            by_standing[standing].append(worker)
    return by_standing[Standing.READY] or by_standing[Standing.NEW]


def _next_stranger(strangers: Strangers, moment: Moment, rng: random.Random) -> Worker | None:
    """One whose turn it is to be tried, if there is one."""
    found = strangers.draw(rng, lambda worker: moment.is_ready(worker) and strangers.is_free(worker), 1)
    return found[0] if found else None


def _among_strangers(able: Able, moment: Moment, rng: random.Random, sample: int) -> WorkerChoice | None:
    """The best of some, where nobody that has served has room."""
    drawn = able.strangers.draw(rng, moment.is_ready, sample) if able.strangers is not None else []
    return _best_of(moment, drawn, f"best of {len(drawn)}") if drawn else None


def _sampled(workers: Sequence[Worker], rng: random.Random, sample: int) -> list[Worker]:
    """As many as are compared, in the order in which they are drawn: of equals the first is taken. Weighted sampling
    without replacement (Efraimidis and Spirakis 2006)."""
    order = sorted(workers, key=lambda worker: rng.random() ** (1 / weight_of(worker)), reverse=True)
    return order[:sample]


def _look_at_all(able: Able, moment: Moment, rng: random.Random, sample: int) -> WorkerChoice | None:
    """The most willing of all workers, when none was found that is ready; rather one that has served."""
    by_standing: dict[Standing, list[Worker]] = {}
    for worker in able.workers:
        by_standing.setdefault(moment.standing(worker), []).append(worker)
    standing = min(by_standing)
    if standing in (Standing.FULL, Standing.CLOSED):
        return None
    workers = [worker for worker in by_standing[standing] if worker.is_tried] or by_standing[standing]
    if standing is Standing.COOLING:
        workers = [min(workers, key=lambda worker: worker.health_of(moment.query.key).cooling_until_s or 0.0)]
    chosen = _sampled(workers, rng, sample)
    if standing is Standing.READY:
        return _best_of(moment, chosen, f"best of {len(chosen)}")
    return _best_of(moment, chosen, f"nobody better: {standing.name.lower().replace('_', ' ')}")


def _known_beginning(group: WeightedGroup, moment: Moment, has_share_left: Callable[[Worker], bool]) -> Worker | None:
    """The worker that requests of this beginning go to, or the next one in its place: if it is ready, not busier than
    others and has not had most of the last requests."""
    if moment.query.affinity is None:
        return None
    near = group.near(moment.query.affinity)
    mean = (1 + sum(worker.pressure() for worker in near)) / sum(weight_of(worker) for worker in near)
    for worker in near[:AFFINE_TRIES]:
        is_busy = worker.pressure() >= ceil(MAX_AFFINE_LOAD * mean * weight_of(worker))
        if not is_busy and moment.is_ready(worker) and has_share_left(worker):
            return worker
    return None


def _best_of(moment: Moment, workers: Sequence[Worker], why: str) -> WorkerChoice:
    """The first of those that take the least time."""
    considered = moment.considered(workers)
    best = min(range(len(workers)), key=lambda index: considered[index].expected_s)
    return WorkerChoice(workers[best], why, tuple(considered))
