"""A simulated network for routing: workers that batch, come and go; gateways that queue, choose and are refused.

Discrete events on one heap. What a gateway knows of a worker is the gateway's own code (`gateway.peers.worker.Worker`);
how it chooses is a policy of `bench.routing.policies`. Times are seconds, work is counted in tokens.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.peers.worker import Worker
from gateway.routing.roster import Roster
from gateway.routing.route_query import RouteQuery
from p2pnet.messages import Load
from p2pnet.records import CapabilityRecord, ModelCard

MODEL = "m"
KEY = (MODEL, "generate")
DIGEST = "sha256:" + "0" * 64

MEDIAN_TOKEN_S = 0.04
SPEED_SIGMA = 0.7
MIN_TOKEN_S, MAX_TOKEN_S = 0.01, 0.16
"""Speeds are log-normal, cut where they are 16 times apart."""
SLOTS = (1, 2, 4, 8, 16)
PREFILL_SPEEDUP = 20
"""A token of the prompt costs a twentieth of one of the answer."""
KNOWN_PART = 0.8
KNOWN_BEGINNINGS = 64
"""Of a prompt whose beginning a worker has kept, this part costs nothing; it keeps so many."""

REFRESH_S = 2.0
FORGOTTEN_AFTER_S = 15.0
"""A gateway sees a new worker within the first, and drops one that has died within the second."""
NOTICED_AFTER_S = 0.1
"""A stream that broke is noticed."""
RETRY_S = 0.05
"""When nobody has room, a gateway looks again: also whenever a request ends."""


@dataclass(frozen=True)
class Scenario:
    """What is simulated. `age_s` is how old a load record is at most; it is half as old at least. `load` is the part of
    all workers' full throughput that is asked for. `lifetime_s` is a worker's mean; None is for ever. `quota` is the
    part of a worker's slots that one gateway may take. `cool_down_s` is how long requests go on coming after those
    that are measured; None is until all of these have ended. `chats` is how many conversations go on; 0 is none."""

    workers: int = 40
    gateways: int = 3
    load: float = 0.9
    age_s: float = 10.0
    lifetime_s: float | None = 600.0
    seconds: float = 300.0
    warm_up_s: float = 100.0
    cool_down_s: float | None = None
    slower_per_companion: float = 0.15
    """Each further sequence of a batch makes a step this much longer, of what it takes for one."""
    seed: int = 1
    quota: float | None = None
    chats: int = 0
    shares: tuple[float, ...] = ()
    """Of the demand, by gateway; equal if not given."""


@dataclass(slots=True)
class Job:
    """One request. `prompt` and `answer` are what is left to do, in tokens of the answer's cost."""

    gateway: Gateway
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

    def __init__(self, name: str, world: World, rng: random.Random) -> None:
        self.name = name
        self.token_s = min(MAX_TOKEN_S, max(MIN_TOKEN_S, rng.lognormvariate(0.0, SPEED_SIGMA) * MEDIAN_TOKEN_S))
        self.slots = rng.choice(SLOTS)
        self.round_trips_s = [rng.uniform(0.005, 0.15) for _ in world.gateways]
        self.running: dict[int, Job] = {}
        self.by_gateway = [0] * len(world.gateways)
        self.is_alive = True
        self._world = world
        self._done = 0.0
        """Tokens that each request that has been here since the beginning would have by now."""
        self._since_s = 0.0
        self._milestones: list[tuple[float, int, bool]] = []
        self._serial = 0
        self._version = 0
        self._kept: OrderedDict[bytes, None] = OrderedDict()
        self._begun: dict[int, float] = {}
        card = ModelCard(MODEL, DIGEST, 1 << 20, features=("text",))
        self.record = CapabilityRecord(name, 1, 1, 2, (card,), ("/ip4/203.0.113.1/tcp/1",), slots=self.slots)

    @property
    def throughput(self) -> float:
        """Tokens a second with all slots taken."""
        return self.slots / self.step_s(self.slots)

    def step_s(self, count: int) -> float:
        return self.token_s * (1 + self._world.scenario.slower_per_companion * (count - 1))

    def load(self) -> Load:
        return Load(running=len(self.running), slots=self.slots)

    def has_room(self, gateway: int) -> bool:
        quota = self._world.scenario.quota
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
            self._world.at(NOTICED_AFTER_S, job.gateway.lose, job, self, sent)
        self.running.clear()

    def _advance(self) -> None:
        now_s = self._world.now_s
        if self.running:
            self._done += (now_s - self._since_s) / self.step_s(len(self.running))
        self._since_s = now_s

    def _plan(self) -> None:
        self._version += 1
        if self._milestones:
            in_s = max(0.0, self._milestones[0][0] - self._done) * self.step_s(len(self.running))
            self._world.at(in_s, self._reach, self._version)

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
            self._world.at(back_s, job.gateway.finish, job, self, self.load())
        else:
            self._world.at(back_s, job.gateway.begin, job, self)
        self._plan()


Policy = Callable[["Gateway", Job], Worker | None]


class Gateway:
    """Queues what it cannot place, and shares no state with others."""

    def __init__(self, index: int, world: World, rng: random.Random) -> None:
        self.index = index
        self.world = world
        self.rng = rng
        self.workers: dict[str, Worker] = {}
        self.roster = Roster([])
        self.recorded: dict[str, float] = {}
        """Running requests for each slot, as the last load record has it."""
        self.choose: Policy
        self._queue: deque[Job] = deque()
        self._retries = False
        self._last_seen_s: dict[str, float] = {}

    def refresh(self) -> None:
        now_s = self.world.now_s
        alive = {machine.name: machine for machine in self.world.machines.values()}
        self._last_seen_s.update(dict.fromkeys(alive, now_s))
        gone = [name for name, seen_s in self._last_seen_s.items() if seen_s < now_s - FORGOTTEN_AFTER_S]
        for name in gone:
            del self._last_seen_s[name]
            self.recorded.pop(name, None)
            self.workers.pop(name, None)
        new = [machine for name, machine in alive.items() if name not in self.workers]
        for machine in new:
            self.workers[machine.name] = Worker(machine.record)
        if new or gone:
            self.roster = Roster(self.workers.values())
            self.pump()
        if not self.world.is_over:
            self.world.at(REFRESH_S, self.refresh)

    def learn(self, machine: Machine, load: Load, sampled_s: float) -> None:
        """A load record arrives."""
        self.recorded[machine.name] = load.running / load.slots
        if (worker := self.workers.get(machine.name)) is not None:
            worker.note_load(load, sampled_s)

    def arrive(self, job: Job) -> None:
        self._queue.append(job)
        if len(self._queue) == 1:
            self.pump()

    def pump(self) -> None:
        while self._queue:
            worker = self.choose(self, self._queue[0])
            if worker is None:
                if not self._retries:
                    self._retries = True
                    self.world.at(RETRY_S, self._retry)
                return
            self._send(self._queue.popleft(), worker)

    def _retry(self) -> None:
        self._retries = False
        self.pump()

    def _send(self, job: Job, worker: Worker) -> None:
        now_s = self.world.now_s
        worker.reserve(KEY, now_s)
        job.sent_s = now_s
        job.attempts += 1
        machine = self.world.ever[worker.peer_id]
        self.world.at(machine.round_trips_s[self.index] / 2, self._reach, job, machine)

    def _reach(self, job: Job, machine: Machine) -> None:
        back_s = machine.round_trips_s[self.index] / 2
        if not machine.is_alive:
            self.world.at(back_s, self.lose, job, machine, 0)
        elif machine.has_room(self.index):
            machine.take(job)
            self.world.at(back_s, self._accept, job, machine, machine.load())
        else:
            self.world.at(back_s, self._refuse, job, machine, machine.load())

    def _accept(self, job: Job, machine: Machine, load: Load) -> None:
        now_s = self.world.now_s
        worker = self.workers.get(machine.name)
        if worker is not None:
            worker.round_trip_s.note(now_s - job.sent_s, now_s)
            worker.note_taken(KEY)
            worker.heard_s = now_s
            worker.note_load(load, now_s)

    def _refuse(self, job: Job, machine: Machine, load: Load) -> None:
        job.busy += 1
        if (worker := self.workers.get(machine.name)) is not None:
            worker.release(KEY)
            worker.health.note_release()
            worker.note_full(KEY, self.world.now_s)
        self._queue.appendleft(job)
        self.pump()

    def begin(self, job: Job, machine: Machine) -> None:
        now_s = self.world.now_s
        job.begun_first_s = now_s
        if job.first_s is None:
            job.first_s = now_s
        if (worker := self.workers.get(machine.name)) is not None:
            worker.heard_s = now_s
            worker.pace(KEY).first_token_s.note(now_s - job.sent_s, now_s)
            worker.health.note_begun(now_s, job.sent_s)

    def finish(self, job: Job, machine: Machine, load: Load) -> None:
        now_s = self.world.now_s
        job.finished_s = now_s
        if (worker := self.workers.get(machine.name)) is not None:
            worker.release(KEY)
            worker.health.note_success()
            worker.heard_s = now_s
            worker.note_taken(KEY)
            worker.note_load(load, now_s)
            if job.begun_first_s is not None:
                worker.pace(KEY).token_s.note((now_s - job.begun_first_s) / job.answer, now_s)
        self.world.finished(job)
        self.pump()

    def lose(self, job: Job, machine: Machine, sent: int) -> None:
        """The worker died, with so many tokens of the answer sent: the rest goes elsewhere, before new requests."""
        if (worker := self.workers.get(machine.name)) is not None:
            worker.release(KEY)
            worker.health.note_failure(self.world.now_s, "peer_lost")
        job.failed_at.add(machine.name)
        job.answer -= sent
        job.prompt += sent / PREFILL_SPEEDUP
        self._queue.appendleft(job)
        self.pump()


class World:
    """Everything, and the clock."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self.scenario = scenario
        self.now_s = 0.0
        self.finished_jobs: list[Job] = []
        self.gateways: list[Gateway] = []
        self.machines: dict[str, Machine] = {}
        self.ever: dict[str, Machine] = {}
        self._rng = random.Random(scenario.seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._serial = 0
        self._open = 0
        self._end_s = scenario.warm_up_s + scenario.seconds
        for index in range(scenario.gateways):
            self.gateways.append(Gateway(index, self, random.Random(scenario.seed * 1000 + index)))
            self.gateways[-1].choose = policy
        for _ in range(scenario.workers):
            self._join()
        for gateway in self.gateways:
            gateway.refresh()
        throughput = sum(machine.throughput for machine in self.machines.values())
        self._gap_s = _mean_work(self._rng) / (scenario.load * throughput)
        self.at(self._rng.expovariate(1 / self._gap_s), self._arrival)

    def at(self, in_s: float, act: Callable[..., None], *arguments: Any) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (self.now_s + in_s, self._serial, act, arguments))

    def run(self) -> list[Job]:
        """The requests that arrived while it was measured, all of them finished."""
        while self.now_s < self._end_s or self._open:
            self.now_s, _, act, arguments = heapq.heappop(self._heap)
            act(*arguments)
        return self.finished_jobs

    @property
    def is_over(self) -> bool:
        """Whether no more requests come."""
        cool_down_s = self.scenario.cool_down_s
        return cool_down_s is not None and self.now_s > self._end_s + cool_down_s

    def finished(self, job: Job) -> None:
        if job.is_measured:
            self._open -= 1
            self.finished_jobs.append(job)

    def _join(self) -> None:
        machine = Machine(f"w{len(self.ever)}", self, self._rng)
        self.machines[machine.name] = self.ever[machine.name] = machine
        self.at(self._rng.uniform(0, self.scenario.age_s / 2), self._sample, machine)
        if self.scenario.lifetime_s is not None:
            self.at(self._rng.expovariate(1 / self.scenario.lifetime_s), self._leave, machine)

    def _leave(self, machine: Machine) -> None:
        """Another one, of other speed, takes its place."""
        machine.die()
        del self.machines[machine.name]
        self._join()

    def _sample(self, machine: Machine) -> None:
        if machine.is_alive and not self.is_over:
            half_s = self.scenario.age_s / 2
            self.at(half_s, self._publish, machine, machine.load(), self.now_s)
            self.at(half_s, self._sample, machine)

    def _publish(self, machine: Machine, load: Load, sampled_s: float) -> None:
        for gateway in self.gateways:
            gateway.learn(machine, load, sampled_s)

    def _arrival(self) -> None:
        scenario = self.scenario
        if self.is_over:
            return
        gateway = self._rng.choices(self.gateways, scenario.shares or None)[0]
        prompt, answer = _work(self._rng)
        affinity = self._rng.randrange(scenario.chats).to_bytes(16, "little") if scenario.chats else None
        is_measured = scenario.warm_up_s <= self.now_s < self._end_s
        query = RouteQuery(MODEL, affinity=affinity, features=frozenset(["text"]))
        self._open += is_measured
        gateway.arrive(
            Job(gateway, self.now_s, prompt, answer, affinity, query, is_measured, (1 + prompt) * MEDIAN_TOKEN_S)
        )
        self.at(self._rng.expovariate(1 / self._gap_s), self._arrival)


def _work(rng: random.Random) -> tuple[float, int]:
    """What the prompt costs, in tokens of the answer, and the answer's tokens."""
    prompt = min(16_000.0, rng.lognormvariate(6.0, 1.2)) / PREFILL_SPEEDUP
    return prompt, max(1, int(min(4096.0, rng.lognormvariate(4.5, 1.2))))


def _mean_work(rng: random.Random, samples: int = 20_000) -> float:
    return sum(1 + sum(_work(rng)) for _ in range(samples)) / samples
