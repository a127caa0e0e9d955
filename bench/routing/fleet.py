"""The machines of a simulation: they come and go, and publish how busy they are."""

from __future__ import annotations

import random
from collections.abc import Callable

from bench.routing.events import Events
from bench.routing.machine import Machine
from bench.routing.scenario import Scenario
from p2pnet.messages import Load

Publish = Callable[[Machine, Load, float], None]
"""Called when a load record arrives, with when it was made."""


class Fleet:
    """Those that are there, and those that ever were."""

    def __init__(self, scenario: Scenario, events: Events, rng: random.Random, publish: Publish) -> None:
        self.scenario = scenario
        self.events = events
        self.alive: dict[str, Machine] = {}
        self.ever: dict[str, Machine] = {}
        self._rng = rng
        self._publish = publish

    @property
    def throughput(self) -> float:
        """Tokens a second with all slots taken."""
        return sum(machine.throughput for machine in self.alive.values())

    @property
    def is_over(self) -> bool:
        """Whether no more requests come."""
        return self.scenario.is_over(self.events.now_s)

    def join(self) -> None:
        """One more comes."""
        machine = Machine(f"w{len(self.ever)}", self.scenario, self.events, self._rng)
        self.alive[machine.name] = self.ever[machine.name] = machine
        self.events.at(self._rng.uniform(0, self.scenario.age_s / 2), self._sample, machine)
        if self.scenario.lifetime_s is not None:
            self.events.at(self._rng.expovariate(1 / self.scenario.lifetime_s), self._leave, machine)

    def _leave(self, machine: Machine) -> None:
        """Another one, of other speed, takes its place."""
        machine.die()
        del self.alive[machine.name]
        self.join()

    def _sample(self, machine: Machine) -> None:
        if machine.is_alive and not self.is_over:
            half_s = self.scenario.age_s / 2
            self.events.at(half_s, self._publish, machine, machine.load(), self.events.now_s)
            self.events.at(half_s, self._sample, machine)
