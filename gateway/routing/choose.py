"""Chooses the worker that a request goes to.

A function of data, `now_s` and a random generator: reads the workers it is given, changes nothing, asks nobody. A few
workers are drawn in proportion to their slots and the best is taken (after Mitzenmacher 2001, "The power of two
choices"): what a record says of a worker's load is seconds old, and everybody's picking the least loaded from it
stampedes. The numbers here were chosen with `bench/routing/sim.py`; see docs/routing.md.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

from gateway.peers.worker import Worker
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
) -> WorkerChoice | None:
    """A worker that can do what is asked, has room and may be asked now; None when there is none at this moment.

    `exclude` are peer ids that have failed this request. When health or freshness leave nobody, those are asked after
    all that are otherwise able: but not while a healthy one is merely full, for then waiting is better. `sample` is how
    many workers are compared."""
    group = roster.able(query)
    if group is None:
        return None
    moment = Moment(query, now_s, exclude)
    drawn = _draw(group, moment, rng, sample)
    if not drawn:
        return _look_at_all(group, moment, rng, sample)
    known = _known_beginning(group, moment)
    if known is None:
        return _best_of(moment, drawn, f"best of {len(drawn)}")
    workers = [known, *(worker for worker in drawn if worker is not known)]
    considered = moment.considered(workers)
    if considered[0].expected_s <= MAX_AFFINE_DELAY * min(each.expected_s for each in considered):
        return WorkerChoice(known, "same beginning", tuple(considered))
    return _best_of(moment, workers, f"best of {len(workers)}")


def _draw(group: WeightedGroup, moment: Moment, rng: random.Random, sample: int) -> list[Worker]:
    """Some different workers that are ready: of all if they are few, else those found soon enough, if any."""
    found: dict[str, Worker] = {}
    if len(group.workers) > DRAWS:
        for _ in range(DRAWS):
            worker = group.draw(rng)
            if worker.peer_id not in found and moment.is_ready(worker):
                found[worker.peer_id] = worker
                if len(found) == sample:
                    break
        return list(found.values())
    return _sampled([worker for worker in group.workers if moment.is_ready(worker)], rng, sample)


def _sampled(workers: Sequence[Worker], rng: random.Random, sample: int) -> list[Worker]:
    """As many as are compared, in the order in which they are drawn: of equals the first is taken. Weighted sampling
    without replacement (Efraimidis and Spirakis 2006)."""
    order = sorted(workers, key=lambda worker: rng.random() ** (1 / weight_of(worker)), reverse=True)
    return order[:sample]


def _look_at_all(group: WeightedGroup, moment: Moment, rng: random.Random, sample: int) -> WorkerChoice | None:
    """The most willing of all workers, when none was found that is ready."""
    by_standing: dict[Standing, list[Worker]] = {}
    for worker in group.workers:
        by_standing.setdefault(moment.standing(worker), []).append(worker)
    standing = min(by_standing)
    workers = by_standing[standing]
    if standing in (Standing.FULL, Standing.CLOSED):
        return None
    if standing is Standing.COOLING:
        workers = [min(workers, key=lambda worker: worker.health.cooling_until_s or 0.0)]
    chosen = _sampled(workers, rng, sample)
    if standing is Standing.READY:
        return _best_of(moment, chosen, f"best of {len(chosen)}")
    return _best_of(moment, chosen, f"nobody better: {standing.name.lower().replace('_', ' ')}")


def _known_beginning(group: WeightedGroup, moment: Moment) -> Worker | None:
    """The worker that requests of this beginning go to, or the next one in its place: if it is ready, not busier than
    others and not much slower."""
    if moment.query.affinity is None:
        return None
    near = group.near(moment.query.affinity)
    mean = (1 + sum(worker.pressure() for worker in near)) / sum(worker.slots for worker in near)
    for worker in near[:AFFINE_TRIES]:
        if worker.pressure() < ceil(MAX_AFFINE_LOAD * mean * worker.slots) and moment.is_ready(worker):
            return worker
    return None


def _best_of(moment: Moment, workers: Sequence[Worker], why: str) -> WorkerChoice:
    """The first of those that take the least time."""
    considered = moment.considered(workers)
    best = min(range(len(workers)), key=lambda index: considered[index].expected_s)
    return WorkerChoice(workers[best], why, tuple(considered))
