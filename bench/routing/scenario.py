"""What is simulated: how many workers and gateways there are, how busy they are, and how large requests are."""

from __future__ import annotations

import random
from dataclasses import dataclass

MODEL = "m"
KEY = (MODEL, "generate")

PREFILL_SPEEDUP = 20
"""A token of the prompt costs a twentieth of one of the answer."""


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

    @property
    def end_s(self) -> float:
        """Requests that arrive later are not measured."""
        return self.warm_up_s + self.seconds

    def is_over(self, now_s: float) -> bool:
        """Whether no more requests come."""
        return self.cool_down_s is not None and now_s > self.end_s + self.cool_down_s


def work(rng: random.Random) -> tuple[float, int]:
    """What the prompt costs, in tokens of the answer, and the answer's tokens."""
    prompt = min(16_000.0, rng.lognormvariate(6.0, 1.2)) / PREFILL_SPEEDUP
    return prompt, max(1, int(min(4096.0, rng.lognormvariate(4.5, 1.2))))


def mean_work(rng: random.Random, samples: int = 20_000) -> float:
    return sum(1 + sum(work(rng)) for _ in range(samples)) / samples
