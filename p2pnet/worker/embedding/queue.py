"""Chooses which inputs are embedded together: of several requests, of similar length, in turns. Pure: computes nothing.

A batch is one rectangle of tokens, so inputs are padded to the longest of it. Requests head batches in turn, each with
the longest input that it has left; the others fill it, one input each at a time. So a request waits for no more batches
than there are requests, however many inputs the others have.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

MAX_PADDING = 2
"""No input is put into a batch this many times as wide as itself: at most half of what is computed is padding."""

MAX_UNREAD_VECTORS = 256
"""How far a request's vectors may be ahead of its reader; then the others have the machine until it has caught up."""


@dataclass(frozen=True)
class EmbedItem:
    """One input of one request."""

    job: EmbedJob
    index: int
    token_ids: tuple[int, ...]


class EmbedJob:
    """The inputs that one request has left to embed. `dimensions` is how short its vectors are cut, or None."""

    def __init__(self, inputs: Sequence[tuple[int, ...]], dimensions: int | None = None) -> None:
        self.dimensions = dimensions
        self._inputs = inputs
        self._indexes = sorted(range(len(inputs)), key=lambda index: len(inputs[index]))
        self._lengths = [len(inputs[index]) for index in self._indexes]
        self._unread = 0

    @property
    def is_done(self) -> bool:
        return not self._indexes

    @property
    def is_ready(self) -> bool:
        return not self.is_done and self._unread < MAX_UNREAD_VECTORS

    @property
    def longest(self) -> int:
        return self._lengths[-1]

    def take(self, width: int) -> EmbedItem | None:
        """Take the longest input that fits into a batch of this width, unless it is too short for it."""
        position = bisect_right(self._lengths, width) - 1
        if not self.is_ready or position < 0 or self._lengths[position] * MAX_PADDING < width:
            return None
        del self._lengths[position]
        index = self._indexes.pop(position)
        self._unread += 1
        return EmbedItem(self, index, self._inputs[index])

    def read(self) -> None:
        """Note that its reader has taken one more vector."""
        self._unread -= 1


class EmbedQueue:
    """The requests that have something left to embed, in the order of their turns."""

    def __init__(self) -> None:
        self._jobs: deque[EmbedJob] = deque()

    def add(self, job: EmbedJob) -> None:
        self._jobs.append(job)

    def remove(self, job: EmbedJob) -> None:
        """Drop what has not been taken of a job. Idempotent."""
        if job in self._jobs:
            self._jobs.remove(job)

    def next_batch(self, max_tokens: int) -> list[EmbedItem]:
        """The inputs to embed together next: at most `max_tokens` with their padding, but at least one input. Empty
        when there is nothing to do."""
        head = next((job for job in self._jobs if job.is_ready), None)
        if head is None:
            return []
        self._jobs.remove(head)
        filling, width, batch = deque([head, *self._jobs]), head.longest, list[EmbedItem]()
        self._jobs.append(head)
        while filling and (len(batch) + 1) * width <= max(max_tokens, width):
            job = filling.popleft()
            if (item := job.take(width)) is not None:
                batch.append(item)
                filling.append(job)
        self._jobs = deque(job for job in self._jobs if not job.is_done)
        return batch
