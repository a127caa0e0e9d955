"""A simulated network for routing: workers that batch, come and go, and gateways that many requests are sent to.

Times are seconds, work is counted in tokens.
"""

from __future__ import annotations

import random

from bench.routing.events import Events
from bench.routing.fleet import Fleet
from bench.routing.machine import MEDIAN_TOKEN_S, Job, Machine
from bench.routing.scenario import MODEL, Scenario, mean_work, work
from bench.routing.simulated_gateway import Gateway, Policy
from gateway.routing.route_query import RouteQuery
from p2pnet.messages import Load


class World:
    """Everything, and the requests that arrive."""

    def __init__(self, scenario: Scenario, policy: Policy) -> None:
        self._scenario = scenario
        self._events = Events()
        self._rng = random.Random(scenario.seed)
        self._finished: list[Job] = []
        self._open = 0
        fleet = Fleet(scenario, self._events, self._rng, self._publish)
        self._gateways = [Gateway(index, fleet, policy, self._finish) for index in range(scenario.gateways)]
        for _ in range(scenario.workers):
            fleet.join()
        for gateway in self._gateways:
            gateway.refresh()
        self._gap_s = mean_work(self._rng) / (scenario.load * fleet.throughput)
        self._await_arrival()

    def run(self) -> list[Job]:
        """The requests that arrived while it was measured, all of them finished."""
        while self._events.now_s < self._scenario.end_s or self._open:
            self._events.run_next()
        return self._finished

    def _finish(self, job: Job) -> None:
        if job.is_measured:
            self._open -= 1
            self._finished.append(job)

    def _publish(self, machine: Machine, load: Load, sampled_s: float) -> None:
        for gateway in self._gateways:
            gateway.learn(machine, load, sampled_s)

    def _await_arrival(self) -> None:
        self._events.at(self._rng.expovariate(1 / self._gap_s), self._arrive)

    def _arrive(self) -> None:
        scenario, now_s = self._scenario, self._events.now_s
        if scenario.is_over(now_s):
            return
        gateway = self._rng.choices(self._gateways, scenario.shares or None)[0]
        prompt, answer = work(self._rng)
        affinity = self._rng.randrange(scenario.chats).to_bytes(16, "little") if scenario.chats else None
        is_measured = scenario.warm_up_s <= now_s < scenario.end_s
        query = RouteQuery(MODEL, affinity=affinity, features=frozenset(["text"]))
        self._open += is_measured
        gateway.arrive(Job(gateway, now_s, prompt, answer, affinity, query, is_measured, (1 + prompt) * MEDIAN_TOKEN_S))
        self._await_arrival()
