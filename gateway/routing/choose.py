"""Which worker a request goes to: who may serve it, what waiting there is expected to cost, and the choice.

Functions of data, `now_s` and a random generator: reads the workers it is given, changes nothing, asks nobody. A few
workers are drawn in proportion to their slots and the best is taken (after Mitzenmacher 2001, "The power of two
choices"): what a record says of a worker's load is seconds old, and everybody's picking the least loaded from it
stampedes. The numbers here were chosen with `bench/routing/sim.py`; see docs/routing.md.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil, exp
from statistics import median
from typing import NamedTuple

from gateway.peers.health import State
from gateway.peers.pace import PeakEwma
from gateway.peers.worker import ModelTask, Pace, Worker
from gateway.routing.route_query import USUAL_TOKENS, RouteQuery
from gateway.routing.route_query import route_query_of as route_query_of
from gateway.routing.weighted_sampling import WeightedGroup, weight_of
from p2pnet.errors import ContextOverflow, FeatureMissing, P2PNetError
from p2pnet.features import check_needed
from p2pnet.records import ModelCard
from p2pnet.wire.exchange import EMBED_PROTOCOL, GENERATE_PROTOCOL

STALE_S = 45.0
"""A worker of which nothing was heard for longer has missed several announcements: it is asked after the others."""

SAMPLE = 8
"""Workers compared. Two are the least that avoids a stampede when all that is known is stale; but speeds differ by an
order of magnitude, are this gateway's own knowledge, and are worth a wider look: see docs/routing.md."""

DRAWS = 24
"""Draws before all are looked at. With nine in ten full, eleven in twelve requests still find a free one."""

NEW_IN_FLIGHT = 2
"""Requests at a worker of which nothing is measured yet, while others have room: enough to measure it at once."""

MAX_NEW_IN_FLIGHT = 16
"""The same while nobody else has room: a stranger that claims a thousand slots does not get the whole queue."""

USUAL_FIRST_TOKEN_S = 0.5
USUAL_TOKEN_S = 0.05
USUAL_ROUND_TRIP_S = 0.05
"""Where nothing at all is measured yet. They are the same for all, so only their proportion matters."""

FIRST_TOKEN_PART = 0.2
"""How much of the time to the first token counts: most of it says how long other prompts were, not how fast the worker
is. What it takes from token to token says more."""

COLD_S = 10.0
WARM_S = 60.0
"""A model that is not in memory takes about this long to load; of a worker that was heard of a minute ago, it is."""

FADE_S = 120.0
"""While nothing of ours runs at a worker nothing is measured there, and what was measured last says less and less: a
third of it is left after this time. Without that, one slow moment of a worker's machine keeps it without a request for
as long as others have room. A slow worker is tried again every few minutes, with one request."""

MAX_AFFINE_LOAD = 1.25
"""The mean load may be exceeded by this much for the sake of a known beginning (Mirrokni, Thorup, Zadimoghaddam 2018,
"Consistent hashing with bounded loads": most keys stay where they are, and nobody is overrun)."""

AFFINE_TRIES = 3
"""A beginning may be known to the next ones of its order too, which take it when the first ones are busy."""

MAX_AFFINE_DELAY = 1.5
"""A known beginning saves part of the time to the first token: who is slower than this is not worth it."""

MAX_VARIETIES = 64
"""Kinds of requests whose able workers are remembered: which digests and features are asked for is up to clients."""

PROTOCOLS = {"generate": GENERATE_PROTOCOL, "embed": EMBED_PROTOCOL}


class Considered(NamedTuple):
    """A worker that was looked at, with what the choice was made on. None is not measured yet.

    A tuple, because every choice makes several and they are most of what it costs."""

    worker: str
    expected_s: float
    in_flight: int
    pressure: int
    slots: int
    state: State
    first_token_s: float | None
    token_s: float | None
    round_trip_s: float | None


@dataclass(frozen=True)
class WorkerChoice:
    """A worker for a request. `why` is a word or two for people."""

    worker: Worker
    why: str
    considered: tuple[Considered, ...] = ()


class Roster:
    """The workers in use at one moment, by what they run. Made anew when one comes, goes or announces other models."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._by_key: dict[ModelTask, list[Worker]] = {}
        for worker in workers:
            for card in worker.record.models:
                self._by_key.setdefault((card.id, card.task), []).append(worker)
        self._lengths: dict[ModelTask, list[int]] = {}
        self._able: dict[tuple[ModelTask, str | None, frozenset[str], int], WeightedGroup | None] = {}

    def of(self, key: ModelTask) -> Sequence[Worker]:
        """All that run the model."""
        return self._by_key.get(key, ())

    def able(self, query: RouteQuery) -> WeightedGroup | None:
        """Those that can do what is asked, busy or not; None when there is nobody.

        Remembered, since it takes a look at all: for all lengths of answers between two lengths of contexts at once."""
        variety = (
            query.key,
            query.digest,
            query.features,
            bisect_left(self._context_lengths(query.key), query.max_tokens or 0),
        )
        if variety not in self._able:
            if len(self._able) >= MAX_VARIETIES:
                self._able.clear()
            workers = [worker for worker in self.of(query.key) if _is_able(worker, query)]
            self._able[variety] = WeightedGroup(workers) if workers else None
        return self._able[variety]

    def _context_lengths(self, key: ModelTask) -> list[int]:
        if key not in self._by_key:
            return []
        if key not in self._lengths:
            cards = (worker.card(key) for worker in self._by_key[key])
            self._lengths[key] = sorted({card.context_length for card in cards if card is not None})
        return self._lengths[key]


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
    moment = _Moment(query, now_s, exclude)
    drawn = _draw(group, moment, rng, sample)
    if not drawn:
        return _look_at_all(group, moment, rng, sample)
    known = _known_beginning(group, moment)
    if known is None:
        return moment.best_of(drawn, f"best of {len(drawn)}")
    workers = [known, *(worker for worker in drawn if worker is not known)]
    considered = moment.considered(workers)
    if considered[0].expected_s <= MAX_AFFINE_DELAY * min(each.expected_s for each in considered):
        return WorkerChoice(known, "same beginning", tuple(considered))
    return moment.best_of(workers, f"best of {len(workers)}")


def is_served(roster: Roster, query: RouteQuery) -> bool:
    """Whether any worker can do what is asked, busy or not."""
    return roster.able(query) is not None


def obstacle(workers: Iterable[Worker], query: RouteQuery) -> P2PNetError | None:
    """Why nobody is able although the model runs: FeatureMissing, which names what the request asks for and nobody
    does, or ContextOverflow. None when nobody runs it."""
    workers = list(workers)
    cards = [card for worker in workers if (card := _card(worker, query)) is not None]
    if not cards:
        return _other_task(workers, query)
    nearest = min(cards, key=lambda card: len(query.features - set(card.features)))
    try:
        check_needed(query.model, query.features, {feature for card in cards for feature in card.features})
        check_needed(query.model, query.features, nearest.features)
    except P2PNetError as error:
        return error
    longest = max(card.context_length for card in cards if query.features.issubset(card.features))
    if (query.max_tokens or 0) <= longest:
        return None
    return ContextOverflow(
        f"The model {query.model} has a context of {longest} tokens, and {query.max_tokens} were requested.",
        "max_tokens",
    )


class _Standing(IntEnum):
    """How willingly a worker is asked that is able: the lower the sooner."""

    READY = 0
    NEW = 1
    """Nothing is measured of it yet, and it has as many requests as that is worth."""
    STALE = 2
    """Nothing was heard of it for a while."""
    FULL = 3
    """Well, but not to be asked now. While there is one, nobody below is asked."""
    COOLING = 4
    ON_TRIAL = 5
    """It has failed, and another request is finding out whether it is back."""
    CLOSED = 6
    """It failed this request, or all of its slots are taken and it would not be asked otherwise either."""


class _Moment:
    """What workers are to one request now."""

    def __init__(self, query: RouteQuery, now_s: float, exclude: Collection[str]) -> None:
        self.query = query
        self._key = query.key
        self._answer = 0 if query.task == "embed" else min(query.max_tokens or USUAL_TOKENS, USUAL_TOKENS)
        self._now_s = now_s
        self._exclude = exclude

    def is_ready(self, worker: Worker) -> bool:
        return self.standing(worker) is _Standing.READY

    def standing(self, worker: Worker) -> _Standing:
        if worker.peer_id in self._exclude:
            return _Standing.CLOSED
        has_room = worker.has_room(self._key, self._now_s)
        if not worker.health.may_take(self._now_s):
            if not has_room:
                return _Standing.CLOSED
            return _Standing.ON_TRIAL if worker.health.state(self._now_s) is State.TRIAL else _Standing.COOLING
        if not has_room:
            return _Standing.FULL
        if self._is_stale(worker):
            return _Standing.STALE
        return self._standing_of_fit(worker)

    def _standing_of_fit(self, worker: Worker) -> _Standing:
        in_flight = worker.in_flight_of(self._key)
        if in_flight < NEW_IN_FLIGHT or self._is_measured(worker):
            return _Standing.READY
        return _Standing.NEW if in_flight < MAX_NEW_IN_FLIGHT else _Standing.FULL

    def _is_stale(self, worker: Worker) -> bool:
        if worker.load is None:
            return False
        return self._now_s - max(worker.load_sampled_s, worker.heard_s) > STALE_S

    def _is_measured(self, worker: Worker) -> bool:
        return worker.pace(self._key).first_token_s.value is not None

    def best_of(self, workers: Sequence[Worker], why: str) -> WorkerChoice:
        """The first of those that take the least time."""
        considered = self.considered(workers)
        best = min(range(len(workers)), key=lambda index: considered[index].expected_s)
        return WorkerChoice(workers[best], why, tuple(considered))

    def considered(self, workers: Sequence[Worker]) -> list[Considered]:
        """What the request is expected to take at each. Whatever is not measured of one is as with the others, and so
        is, more and more, what was measured long ago."""
        paces = [worker.pace(self._key) for worker in workers]
        usual_first_s = self._usual([pace.first_token_s for pace in paces], USUAL_FIRST_TOKEN_S)
        usual_token_s = self._usual([pace.token_s for pace in paces], USUAL_TOKEN_S)
        usual_trip_s = self._usual([worker.round_trip_s for worker in workers], USUAL_ROUND_TRIP_S)
        considered = []
        for worker, pace in zip(workers, paces, strict=True):
            first_s, token_s, trip_s = pace.first_token_s.value, pace.token_s.value, worker.round_trip_s.value
            stands = self._part_that_stands(worker, pace)
            work_s = FIRST_TOKEN_PART * _faded(first_s, usual_first_s, stands)
            work_s += self._answer * _faded(token_s, _claimed_token_s(worker, usual_token_s), stands)
            pressure, slots = worker.pressure(), worker.slots
            expected_s = _faded(trip_s, usual_trip_s, self._part_left(worker.round_trip_s.noted_s))
            expected_s += work_s * (1 + pressure / weight_of(worker))
            if self._is_cold(worker, pace):
                expected_s += COLD_S
            state = worker.health.state(self._now_s)
            considered.append(
                Considered(
                    worker.peer_id, expected_s, worker.in_flight, pressure, slots, state, first_s, token_s, trip_s
                )
            )
        return considered

    def _usual(self, measured: Sequence[PeakEwma], default: float) -> float:
        """The median of what was measured lately, or else ever."""
        known = [each for each in measured if each.value is not None]
        recent = [each for each in known if self._now_s - each.noted_s <= FADE_S] or known
        return median(each.value or 0.0 for each in recent) if recent else default

    def _part_that_stands(self, worker: Worker, pace: Pace) -> float:
        """Of what was measured: all of it while something of ours runs there, which would show a change."""
        if worker.in_flight_of(self._key):
            return 1.0
        return self._part_left(max(pace.first_token_s.noted_s, pace.token_s.noted_s))

    def _part_left(self, noted_s: float) -> float:
        return exp((noted_s - self._now_s) / FADE_S)

    def _is_cold(self, worker: Worker, pace: Pace) -> bool:
        """Whether the weights have to be loaded first."""
        card = worker.card(self._key)
        return card is not None and card.is_cold and self._now_s - pace.first_token_s.noted_s > WARM_S


def _draw(group: WeightedGroup, moment: _Moment, rng: random.Random, sample: int) -> list[Worker]:
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


def _look_at_all(group: WeightedGroup, moment: _Moment, rng: random.Random, sample: int) -> WorkerChoice | None:
    """The most willing of all workers, when none was found that is ready."""
    by_standing: dict[_Standing, list[Worker]] = {}
    for worker in group.workers:
        by_standing.setdefault(moment.standing(worker), []).append(worker)
    standing = min(by_standing)
    workers = by_standing[standing]
    if standing in (_Standing.FULL, _Standing.CLOSED):
        return None
    if standing is _Standing.COOLING:
        workers = [min(workers, key=lambda worker: worker.health.cooling_until_s or 0.0)]
    chosen = _sampled(workers, rng, sample)
    if standing is _Standing.READY:
        return moment.best_of(chosen, f"best of {len(chosen)}")
    return moment.best_of(chosen, f"nobody better: {standing.name.lower().replace('_', ' ')}")


def _known_beginning(group: WeightedGroup, moment: _Moment) -> Worker | None:
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


def _faded(measured_s: float | None, usual_s: float, stands: float) -> float:
    """What was measured, as far as it `stands`, and for the rest what is usual."""
    return usual_s if measured_s is None else usual_s + stands * (measured_s - usual_s)


def _claimed_token_s(worker: Worker, usual_s: float) -> float:
    """A worker that says it is slower than usual is believed; that it is faster has to be seen."""
    tokens_per_s = 0.0 if worker.load is None else worker.load.decode_tokens_per_s.value
    return max(usual_s, 1 / tokens_per_s) if tokens_per_s > 0 else usual_s


def _other_task(workers: Iterable[Worker], query: RouteQuery) -> FeatureMissing | None:
    """Why a model that is there only for something else cannot serve this."""
    other, cannot = ("generate", "embed") if query.task == "embed" else ("embed", "generate text")
    if not any(worker.card((query.model, other)) for worker in workers):
        return None
    return FeatureMissing(f"The model {query.model} does not {cannot}.", "model")


def _card(worker: Worker, query: RouteQuery) -> ModelCard | None:
    """What the worker announces of the weights that are asked for."""
    card = worker.card(query.key)
    return card if card is not None and query.digest in (None, card.digest) else None


def _is_able(worker: Worker, query: RouteQuery) -> bool:
    """How long the prompt is only the worker knows: what can be ruled out is an answer longer than the context."""
    record, card = worker.record, _card(worker, query)
    return (
        card is not None
        and query.features.issubset(card.features)
        and (query.max_tokens or 0) <= card.context_length
        and bool(record.addresses)
        and (not record.protocols or PROTOCOLS[query.task] in record.protocols)
    )
