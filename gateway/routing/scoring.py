"""Scores workers for one request: how willingly each is asked, how long its answer may take.

Functions of data and `now_s`: reads the workers that it is given, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from math import exp
from statistics import median
from typing import NamedTuple

from gateway.peers.health import State
from gateway.peers.pace import PeakEwma
from gateway.peers.worker import Pace, Worker
from gateway.routing.able import Able
from gateway.routing.route_query import USUAL_TOKENS, RouteQuery
from gateway.routing.weighted_sampling import weight_of

STALE_S = 45.0
"""A worker of which nothing was heard for longer has missed several announcements: it is asked after the others."""

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


UNVERIFIABLE_COST = 1.2
"""Whose answers nobody can check counts as so much slower. Of two that are about as fast the one is asked that can be
checked; a server that is faster by more than the luck of the draw is still asked first."""


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


class Standing(IntEnum):
    """How willingly a worker is asked that is able: the lower the sooner."""

    READY = 0
    NEW = 1
    """It has as many requests as what was seen of it speaks for, whatever it claims."""
    STALE = 2
    """Nothing was heard of it for a while."""
    FULL = 3
    """Well, but not to be asked now. While there is one, nobody below is asked."""
    COOLING = 4
    ON_TRIAL = 5
    """It has failed, and another request is finding out whether it is back."""
    CLOSED = 6
    """It failed this request, or all of its slots are taken and it would not be asked otherwise either."""


class Moment:
    """What workers are to one request now."""

    def __init__(self, query: RouteQuery, able: Able, now_s: float, exclude: Collection[str]) -> None:
        able.look(now_s)
        self.query = query
        self._able = able
        self._key = query.key
        self._answer = min(query.max_tokens or USUAL_TOKENS, USUAL_TOKENS) if query.task == "generate" else 0
        self._now_s = now_s
        self._exclude = exclude

    def is_ready(self, worker: Worker) -> bool:
        return self.standing(worker) is Standing.READY

    def standing(self, worker: Worker) -> Standing:
        if worker.peer_id in self._exclude:
            return Standing.CLOSED
        has_room = worker.has_room(self._key, self._now_s)
        health = worker.health_of(self._key)
        if not health.may_take(self._now_s):
            if not has_room:
                return Standing.CLOSED
            return Standing.ON_TRIAL if health.state(self._now_s) is State.TRIAL else Standing.COOLING
        if not has_room:
            return Standing.FULL
        if self._is_stale(worker):
            return Standing.STALE
        return self._standing_of_fit(worker)

    def _standing_of_fit(self, worker: Worker) -> Standing:
        in_flight = worker.in_flight_of(self._key)
        if self._is_measured(worker):
            return Standing.READY if in_flight < worker.believed_slots else Standing.NEW
        if in_flight < NEW_IN_FLIGHT:
            return Standing.READY
        return Standing.NEW if in_flight < MAX_NEW_IN_FLIGHT else Standing.FULL

    def _is_stale(self, worker: Worker) -> bool:
        if worker.load is None:
            return False
        return self._now_s - max(worker.load_sampled_s, worker.heard_s) > STALE_S

    def _is_measured(self, worker: Worker) -> bool:
        return worker.pace(self._key).first_token_s.value is not None

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
            first_part_s = max(self._able.least_first_token_s, _faded(first_s, usual_first_s, stands))
            each_s = max(self._able.least_token_s, _faded(token_s, _claimed_token_s(worker, usual_token_s), stands))
            work_s = FIRST_TOKEN_PART * first_part_s + self._answer * each_s
            pressure, slots = worker.pressure(), worker.slots
            expected_s = _faded(trip_s, usual_trip_s, self._part_left(worker.round_trip_s.noted_s))
            expected_s += work_s * (1 + pressure / weight_of(worker))
            if self._is_unverifiable(worker):
                expected_s *= UNVERIFIABLE_COST
            if self._is_cold(worker, pace):
                expected_s += COLD_S
            state = worker.health_of(self._key).state(self._now_s)
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

    def _is_unverifiable(self, worker: Worker) -> bool:
        """Whether it generates, and does not say by which rule: a server elsewhere."""
        card = worker.card(self._key)
        return card is not None and card.task == "generate" and not card.sampler

    def _is_cold(self, worker: Worker, pace: Pace) -> bool:
        """Whether the weights have to be loaded first."""
        card = worker.card(self._key)
        return card is not None and card.is_cold and self._now_s - pace.first_token_s.noted_s > WARM_S


def _faded(measured_s: float | None, usual_s: float, stands: float) -> float:
    """What was measured, as far as it `stands`, and for the rest what is usual."""
    return usual_s if measured_s is None else usual_s + stands * (measured_s - usual_s)


def _claimed_token_s(worker: Worker, usual_s: float) -> float:
    """A worker that says it is slower than usual is believed; that it is faster has to be seen."""
    tokens_per_s = 0.0 if worker.load is None else worker.load.decode_tokens_per_s.value
    return max(usual_s, 1 / tokens_per_s) if tokens_per_s > 0 else usual_s
