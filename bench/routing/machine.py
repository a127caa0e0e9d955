"""A worker as it really is: it batches, keeps the beginnings of prompts, and may die."""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

from bench.routing.events import Events
from bench.routing.scenario import MODEL, Scenario
from gateway.routing.route_query import RouteQuery
from p2pnet.messages import Load
from p2pnet.records import CapabilityRecord, ModelCard

DIGEST = "sha256:" + "0" * 64

MEDIAN_TOKEN_S = 0.04
SPEED_SIGMA = 0.7
MIN_TOKEN_S, MAX_TOKEN_S = 0.01, 0.16
"""Speeds are log-normal, cut where they are 16 times apart."""
SLOTS = (1, 2, 4, 8, 16)
KNOWN_PART = 0.8
KNOWN_BEGINNINGS = 64
"""Of a prompt whose beginning a worker has kept, this part costs nothing; it keeps so many."""
NOTICED_AFTER_S = 0.1
"""A stream that broke is noticed."""


class Sender(Protocol):
    """The gateway that has sent a request, as far as the machine knows it that answers."""

    index: int

    def begin(self, job: Job, machine: Machine) -> None: ...

    def finish(self, job: Job, machine: Machine, load: Load) -> None: ...

    def lose(self, job: Job, machine: Machine, sent: int) -> None: ...


@dataclass(slots=True)
class Job:
    """One request. `prompt` and `answer` are what is left to do, in tokens of the answer's cost."""

    gateway: Sender
    arrived_s: float
    prompt: float
    answer: int
    affinity: bytes | None
    query: RouteQuery
    is_measured: bool
    idle_s: float
    """To the first token at an idle worker of median speed."""
    sent_s: float = 0.0
    first_s: float | None = None
    begun_first_s: float | None = None
    finished_s: float = 0.0
    is_hit: bool = False
    attempts: int = 0
    busy: int = 0
    failed_at: set[str] = field(default_factory=set)


class Machine:
    """A worker as it really is. All its requests go on at the same speed, which falls with their number."""

    def __init__(self, name: str, scenario: Scenario, events: Events, rng: random.Random) -> None:
        self.name = name
        self.token_s = min(MAX_TOKEN_S, max(MIN_TOKEN_S, rng.lognormvariate(0.0, SPEED_SIGMA) * MEDIAN_TOKEN_S))
        self.slots = rng.choice(SLOTS)
        self.round_trips_s = [rng.uniform(0.005, 0.15) for _ in range(scenario.gateways)]
        self.running: dict[int, Job] = {}
        self.by_gateway = [0] * scenario.gateways
        self.is_alive = True
        self._scenario = scenario
        self._events = events
        self._done = 0.0
        """Tokens that each request that has been here since the beginning would have by now."""
        self._since_s = 0.0
        self._milestones: list[tuple[float, int, bool]] = []
        self._serial = 0
        self._version = 0
        self._kept: OrderedDict[bytes, None] = OrderedDict()
        self._begun: dict[int, float] = {}
        card = ModelCard(MODEL, DIGEST, 1 << 20, features=("text",))
        subnet = ".".join(map(str, rng.choices(range(1, 100), k=3)))
        self.record = CapabilityRecord(name, 1, 1, 2, (card,), (f"/ip4/{subnet}.1/tcp/1",), slots=self.slots)

    @property
    def throughput(self) -> float:
        """Tokens a second with all slots taken."""
        return self.slots / self.step_s(self.slots)

    def step_s(self, count: int) -> float:
        return self.token_s * (1 + self._scenario.slower_per_companion * (count - 1))

    def load(self) -> Load:
        return Load(running=len(self.running), slots=self.slots)

    def has_room(self, gateway: int) -> bool:
        quota = self._scenario.quota
        if quota is not None and self.by_gateway[gateway] >= max(1, int(quota * self.slots)):
            return False
        return len(self.running) < self.slots

    def take(self, job: Job) -> None:
        self._advance()
        self._serial += 1
        prompt = 1 + job.prompt * (1 - KNOWN_PART if self._knows(job) else 1.0)
        self.running[self._serial] = job
        self.by_gateway[job.gateway.index] += 1
        self._begun[self._serial] = self._done + prompt
        heapq.heappush(self._milestones, (self._done + prompt, self._serial, False))
        heapq.heappush(self._milestones, (self._done + prompt + job.answer, self._serial, True))
        self._plan()

    def _knows(self, job: Job) -> bool:
        if job.affinity is None:
            return False
        job.is_hit = job.affinity in self._kept
        self._kept[job.affinity] = None
        self._kept.move_to_end(job.affinity)
        if len(self._kept) > KNOWN_BEGINNINGS:
            self._kept.popitem(last=False)
        return job.is_hit

    def die(self) -> None:
        """All that runs here is lost; what was sent of it is not."""
        self._advance()
        self.is_alive = False
        self._version += 1
        for serial, job in self.running.items():
            sent = max(0, min(job.answer - 1, int(self._done - self._begun[serial])))
            self._events.at(NOTICED_AFTER_S, job.gateway.lose, job, self, sent)
        self.running.clear()

    def _advance(self) -> None:
        now_s = self._events.now_s
        if self.running:
            self._done += (now_s - self._since_s) / self.step_s(len(self.running))
        self._since_s = now_s

    def _plan(self) -> None:
        self._version += 1
        if self._milestones:
            in_s = max(0.0, self._milestones[0][0] - self._done) * self.step_s(len(self.running))
            self._events.at(in_s, self._reach, self._version)

    def _reach(self, version: int) -> None:
        if version != self._version:
            return
        self._advance()
        done, serial, is_end = heapq.heappop(self._milestones)
        self._done = max(self._done, done)
        job = self.running[serial]
        back_s = self.round_trips_s[job.gateway.index] / 2
        if is_end:
            del self.running[serial], self._begun[serial]
            self.by_gateway[job.gateway.index] -= 1
            self._events.at(back_s, job.gateway.finish, job, self, self.load())
        else:
            self._events.at(back_s, job.gateway.begin, job, self)
        self._plan()
