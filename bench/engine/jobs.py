"""The requests of a workload: what they ask, and when they arrive."""

from __future__ import annotations

import random
from dataclasses import dataclass

ANSWER_TOKENS = 64
PROMPT_TOKENS = (32, 64, 96, 128)


@dataclass(frozen=True)
class Job:
    """One request: it arrives `at_s` seconds after the start."""

    at_s: float
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Served:
    """When a request's first and last token came, in seconds after its arrival."""

    first_s: float
    last_s: float


def prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    """No two begin alike: nothing can be reused."""
    rng = random.Random(seed)
    return [tuple(rng.randrange(3, 1500) for _ in range(rng.choice(PROMPT_TOKENS))) for _ in range(count)]


def poisson(count: int, per_s: float, seed: int) -> list[Job]:
    rng, at_s, jobs = random.Random(seed), 0.0, []
    for prompt in prompts(count, seed):
        jobs.append(Job(at_s, prompt))
        at_s += rng.expovariate(per_s)
    return jobs
