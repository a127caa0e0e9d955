"""A gateway of the simulation: it queues, chooses, is refused, and learns from what comes back.

What it knows of a worker is the gateway's own code (`gateway.peers.worker.Worker`); how it chooses is a policy.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from bench.routing.fleet import Fleet
from bench.routing.machine import Job, Machine
from bench.routing.scenario import KEY, PREFILL_SPEEDUP
from gateway.peers.worker import Worker
from gateway.routing.roster import Roster
from p2pnet.messages import Load

REFRESH_S = 2.0
FORGOTTEN_AFTER_S = 15.0
"""A gateway sees a new worker within the first, and drops one that has died within the second."""
RETRY_S = 0.05
"""When nobody has room, a gateway looks again: also whenever a request ends."""

Policy = Callable[["Gateway", Job], Worker | None]
"""A way to choose a worker; None where nobody has room."""


class Gateway:
    """Queues what it cannot place, and shares no state with others."""

    def __init__(self, index: int, fleet: Fleet, choose: Policy, finished: Callable[[Job], None]) -> None:
        self.index = index
        self.fleet = fleet
        self.rng = random.Random(fleet.scenario.seed * 1000 + index)
        self.workers: dict[str, Worker] = {}
        self.roster = Roster([])
        self.recorded: dict[str, float] = {}
        """Running requests for each slot, as the last load record has it."""
        self._choose = choose
        self._finished = finished
        self._events = fleet.events
        self._queue: deque[Job] = deque()
        self._retries = False
        self._last_seen_s: dict[str, float] = {}

    @property
    def now_s(self) -> float:
        return self._events.now_s

    def refresh(self) -> None:
        now_s, alive = self.now_s, self.fleet.alive
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
        if not self.fleet.is_over:
            self._events.at(REFRESH_S, self.refresh)

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
            worker = self._choose(self, self._queue[0])
            if worker is None:
                if not self._retries:
                    self._retries = True
                    self._events.at(RETRY_S, self._retry)
                return
            self._send(self._queue.popleft(), worker)

    def _retry(self) -> None:
        self._retries = False
        self.pump()

    def _send(self, job: Job, worker: Worker) -> None:
        now_s = self.now_s
        worker.reserve(KEY, now_s)
        job.sent_s = now_s
        job.attempts += 1
        machine = self.fleet.ever[worker.peer_id]
        self._events.at(machine.round_trips_s[self.index] / 2, self._reach, job, machine)

    def _reach(self, job: Job, machine: Machine) -> None:
        back_s = machine.round_trips_s[self.index] / 2
        if not machine.is_alive:
            self._events.at(back_s, self.lose, job, machine, 0)
        elif machine.has_room(self.index):
            machine.take(job)
            self._events.at(back_s, self._accept, job, machine, machine.load())
        else:
            self._events.at(back_s, self._refuse, job, machine, machine.load())

    def _accept(self, job: Job, machine: Machine, load: Load) -> None:
        now_s = self.now_s
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
            worker.health_of(KEY).note_release()
            worker.note_full(KEY, self.now_s)
        self._queue.appendleft(job)
        self.pump()

    def begin(self, job: Job, machine: Machine) -> None:
        now_s = self.now_s
        job.begun_first_s = now_s
        if job.first_s is None:
            job.first_s = now_s
        if (worker := self.workers.get(machine.name)) is not None:
            worker.heard_s = now_s
            worker.pace(KEY).first_token_s.note(now_s - job.sent_s, now_s)
            worker.health_of(KEY).note_begun(now_s, job.sent_s)

    def finish(self, job: Job, machine: Machine, load: Load) -> None:
        now_s = self.now_s
        job.finished_s = now_s
        if (worker := self.workers.get(machine.name)) is not None:
            worker.release(KEY)
            worker.note_served(KEY)
            worker.heard_s = now_s
            worker.note_load(load, now_s)
            if job.begun_first_s is not None:
                worker.pace(KEY).token_s.note((now_s - job.begun_first_s) / job.answer, now_s)
        self._finished(job)
        self.pump()

    def lose(self, job: Job, machine: Machine, sent: int) -> None:
        """The worker died, with so many tokens of the answer sent: the rest goes elsewhere, before new requests."""
        if (worker := self.workers.get(machine.name)) is not None:
            worker.release(KEY)
            worker.health_of(KEY).note_failure(self.now_s, "peer_lost")
        job.failed_at.add(machine.name)
        job.answer -= sent
        job.prompt += sent / PREFILL_SPEEDUP
        self._queue.appendleft(job)
        self.pump()
