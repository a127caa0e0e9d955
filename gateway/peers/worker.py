"""Describes one worker: what it announces, what this gateway has there, and what it has measured.

Owns the counts and the measurements; decides nothing (see `gateway.routing.choose`), asks nobody, keeps no clock.
"""

from __future__ import annotations

from collections import Counter, deque

import msgspec

from gateway.peers.health import Health, ModelHealth, State
from gateway.peers.pace import PeakEwma, Window
from gateway.peers.subnets import subnets_of
from p2pnet.messages import Load
from p2pnet.records import CapabilityRecord, ModelCard, ModelTask

BELIEVED_AT_FIRST = 4
"""A claim of slots costs nothing: of a worker that has served nothing yet, so many are believed."""

BELIEVED_GROWTH = 2
"""And then this many times as many as it was seen to serve at once: a large one that is needed shows soon how large."""

MAX_DISPATCHES = 512
"""Requests remembered since a load was sampled: a worker of more slots has newer samples long before."""

FULL_S = 0.05
MAX_FULL_S = 1.0
"""A worker that said it is busy is asked again after 0.05 s, and after twice as long each time it says so again. Its
refusal costs a few milliseconds; one second is what a free slot may stay unused at most."""


class Pace:
    """What was measured of one model on one worker: seconds to the first token, and from one token to the next."""

    def __init__(self) -> None:
        self.first_token_s = PeakEwma()
        self.token_s = PeakEwma()
        self.gaps_s = Window()
        """Between two frames of tokens: how long it is usually silent."""
        self.durations_s = Window()
        """Of whole requests that succeeded there."""


class Worker:
    """One worker. Times are seconds on one monotonic clock."""

    def __init__(self, record: CapabilityRecord) -> None:
        self.record = record
        self.since_unix_s: float | None = None
        """Since when this gateway has had it in use without a break."""
        self.health = Health()
        """As a whole: whether it is there."""
        self._healths: dict[ModelTask, ModelHealth] = {}
        self.served_at_once = 0
        """The most requests of ours for one model that it had when it served one of them to its end."""
        self.load: Load | None = None
        self.load_sampled_s = float("-inf")
        self.round_trip_s = PeakEwma()
        self.heard_s = float("-inf")
        """When anything came from it that it has just sent: an event, an answer to a probe."""
        self.refused_s = float("-inf")
        """When it last said of a request that it cannot be served, or ended an answer after next to nothing."""
        self.full_until_s: dict[ModelTask, float] = {}
        self._full_times: Counter[ModelTask] = Counter()
        self._in_flight: Counter[ModelTask] = Counter()
        self._dispatched_s: deque[float] = deque(maxlen=MAX_DISPATCHES)
        self._paces: dict[ModelTask, Pace] = {}

    @property
    def peer_id(self) -> str:
        return self.record.peer_id

    @property
    def is_tried(self) -> bool:
        """Whether it has served a request of ours to its end."""
        return self.health.has_served

    @property
    def subnets(self) -> frozenset[str]:
        """Where its addresses are."""
        return subnets_of(self.record.addresses)

    @property
    def in_flight(self) -> int:
        """This gateway's requests there, of all models."""
        return self._in_flight.total()

    def in_flight_of(self, key: ModelTask) -> int:
        return self._in_flight[key]

    def card(self, key: ModelTask) -> ModelCard | None:
        for card in self.record.models:
            if key in card.asked_for:
                return card
        return None

    @property
    def slots(self) -> int:
        """How many requests of each of its models it takes at the same time: `slots` are over all of them."""
        return max(1, self.record.slots // max(1, len(self.record.models)))

    @property
    def believed_slots(self) -> int:
        """Of its slots those that what was seen of it speaks for."""
        return min(self.slots, max(BELIEVED_AT_FIRST, BELIEVED_GROWTH * self.served_at_once))

    def has_room(self, key: ModelTask, now_s: float) -> bool:
        """Whether it may take one more, as far as is known here: others' requests are found out by asking."""
        return self._in_flight[key] < self.slots and self.full_until_s.get(key, now_s) <= now_s

    def health_of(self, key: ModelTask) -> ModelHealth:
        """Whether it may be asked for this model."""
        known = self._healths.get(key)
        return self._healths.setdefault(key, ModelHealth(self.health)) if known is None else known

    def is_cooling(self, now_s: float) -> bool:
        """Whether it, or one of its models, is left alone now."""
        models = self._healths.values()
        return State.COOLING in (self.health.state(now_s), *(health.state(now_s) for health in models))

    def pace(self, key: ModelTask) -> Pace:
        known = self._paces.get(key)
        return self._paces.setdefault(key, Pace()) if known is None else known

    def dispatched_since_sample(self) -> int:
        """Requests that this gateway sent there after the load was sampled, and that the load therefore lacks."""
        count = 0
        for dispatched_s in reversed(self._dispatched_s):
            if dispatched_s <= self.load_sampled_s:
                break
            count += 1
        return count

    def pressure(self) -> int:
        """Requests there at the moment, of all gateways, as far as one can know."""
        known = 0 if self.load is None else self.load.running + self.load.queued
        return max(self.in_flight, known + self.dispatched_since_sample())

    def note_record(self, record: CapabilityRecord) -> bool:
        """It has announced itself anew. Returns whether that says anything but another moment and another load."""
        before, self.record = self.record, record
        return _lasting(before) != _lasting(record)

    def reserve(self, key: ModelTask, now_s: float) -> None:
        """A request goes there now: release it once."""
        self._in_flight[key] += 1
        self._dispatched_s.append(now_s)
        self.health_of(key).note_start(now_s)

    def release(self, key: ModelTask) -> None:
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]

    def note_served(self, key: ModelTask) -> None:
        """It served a request to its end, whose slot has been given back: from now on it is tried."""
        self.served_at_once = max(self.served_at_once, self._in_flight[key] + 1)
        self.health_of(key).note_success()
        self.note_taken(key)

    def note_load(self, load: Load, sampled_s: float) -> None:
        """What it says of itself, unless something newer is known."""
        if sampled_s >= self.load_sampled_s:
            self.load = load
            self.load_sampled_s = sampled_s

    def note_full(self, key: ModelTask, now_s: float) -> None:
        """It refused a request since all of its slots are taken. Refusals of requests that were sent together count
        once."""
        if self.full_until_s.get(key, now_s) > now_s:
            return
        pause_s = min(MAX_FULL_S, FULL_S * 2 ** min(self._full_times[key], 8))
        self._full_times[key] += 1
        self.full_until_s[key] = now_s + pause_s

    def note_taken(self, key: ModelTask) -> None:
        """It took a request, or finished one: it is not full."""
        self._full_times.pop(key, None)
        self.full_until_s.pop(key, None)


def _lasting(record: CapabilityRecord) -> CapabilityRecord:
    """What holds until something happens."""
    return msgspec.structs.replace(record, sequence=0, issued_ms=0, expires_ms=1, load=None)
