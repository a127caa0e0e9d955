"""Guesses as a test says: right ones, wrong ones, and such as no honest drafter makes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.speculation import Guessed

Guess = Callable[[Sequence[int], int], Sequence[int]]
"""From the ids so far, and how many there is room for, to what comes next."""


class Guessing:
    """A Speculation. `kept` counts the drafts that were right; `jobs` are those that are not over."""

    def __init__(self, guess: Guess) -> None:
        self._guess = guess
        self.jobs: set[Job] = set()
        self.drafted = self.kept = 0

    def drafts(self, step: Sequence[Guessed]) -> list[Sequence[int]]:
        self.jobs |= {sequence.job for sequence, _ in step}
        found = [self._guess(sequence.job.ids, room) for sequence, room in step]
        self.drafted += sum(min(len(ids), room) for ids, (_, room) in zip(found, step, strict=True))
        return found

    def heard(self, job: Job, chosen: Sequence[int]) -> None:
        assert job in self.jobs
        self.kept += max(0, len(chosen) - 1)

    def forget(self, job: Job) -> None:
        self.jobs.discard(job)


def right(answers: Sequence[Sequence[int]], most: int = 100) -> Guess:
    """What follows in whichever of these, prompt and answer, begins with the ids so far."""

    def guess(ids: Sequence[int], room: int) -> Sequence[int]:
        known = next((whole for whole in answers if list(whole[: len(ids)]) == list(ids)), ())
        return known[len(ids) : len(ids) + min(room, most)]

    return guess


def wrong(vocabulary: int, rng: random.Random) -> Guess:
    """Anything, and more than there is room for."""
    return lambda ids, room: [rng.randrange(vocabulary) for _ in range(room + rng.randrange(3))]


def mixed(one: Guess, other: Guess, share: float, rng: random.Random) -> Guess:
    """The first one's, each of them replaced by one of the other's with this probability."""

    def guess(ids: Sequence[int], room: int) -> Sequence[int]:
        pairs = zip(one(ids, room), other(ids, room), strict=False)
        return [wrong if rng.random() < share else right for right, wrong in pairs]

    return guess
