"""Defines Speculation: what guesses the tokens that come next, so that one pass computes several of an answer.

A guess cannot change an answer: it is kept where the sampler chooses the same. Knows nothing of where guesses come
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from p2pnet.worker.engine.computation import Computation
from p2pnet.worker.engine.scheduler import Job, Work

Guessed = tuple[Computation[Any], int]
"""What is computed next of an answer, and how many further tokens of it there is room for."""


class Speculation(Protocol):
    """Guesses for all answers of one engine. Called in its thread."""

    def drafts(self, step: Sequence[Guessed]) -> list[Sequence[int]]:
        """For each answer of a step the ids that may follow those it has, at most as many as there is room for. All
        are in the model's vocabulary."""

    def heard(self, job: Job, chosen: Sequence[int]) -> None:
        """These ids were chosen after the last drafts for a job: one more than were kept, where the answer goes on."""

    def forget(self, job: Job) -> None:
        """A job is over."""


def drafts_of(
    speculation: Speculation | None, works: Sequence[Work], sequences: Sequence[Computation[Any]]
) -> list[Sequence[int]]:
    """What is computed after the tokens of each work of a step."""
    if speculation is None:
        return [()] * len(works)
    rooms = [room_for_drafts(work) for work in works]
    guessed = speculation.drafts(list(zip(sequences, rooms, strict=True)))
    return [ids[:room] for ids, room in zip(guessed, rooms, strict=True)]


def room_for_drafts(work: Work) -> int:
    """How many ids may be computed after those of a work: none but after the one token that an answer waits for, and
    only what its memory holds already. Of the tokens that may still come the last needs none after it."""
    job = work.job
    if job.kv is None or job.is_background or job.remaining != 1:
        return 0
    return max(0, min(job.max_length - len(job.ids) - 1, job.kv.capacity - len(job.ids)))
