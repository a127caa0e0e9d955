"""Decides which sequences compute in the next step, and how much of each. Pure: no torch, no threads, no clock.

The rules:

- Whoever has a token to compute next gets it in every step: one token each, all together.
- Prompts are computed in chunks beside them, small enough that nobody's next token waits for more than one chunk. The
  oldest prompt gets half of the chunk at least, so it never starves; the rest goes to the shortest ones, so that a
  short question does not wait for a long one.
- A sequence is admitted in the order of arrival, when the memory holds what it has so far. What begins like something
  that is still there, running or kept, takes those keys and values over; what begins like a prompt that is being
  computed waits for that.
- When memory runs out in mid-answer, kept prefixes go first, then the youngest sequence gives its memory up. It goes
  on later where it was, with the same tokens: they are computed again, not sampled again.
- Whoever is held takes no slot, and gives its memory up for those who wait for some.
- What is in the background is computed when no prompt is, beside others' next tokens only a little of it, and never
  at the cost of anybody's memory: it gives up its own for whoever needs it.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from p2pnet.worker.engine.memory import KvMemory, Room, whole_blocks
from p2pnet.worker.engine.prefixes import REUSE_TOKENS, Ids, Prefix, PrefixCache, common_length, id_array, reusable

HEADROOM_TOKENS = 64
"""What a sequence gets beyond its prompt when it is admitted; then it grows by half each time."""

TAKE_OVER_SHARE = 0.75
"""A kept prefix of which a new prompt uses this much becomes its memory; of others the part is copied."""


@dataclass(frozen=True)
class SchedulerLimits:
    """How many tokens of prompts a step computes: `chunk_beside` while others wait for their next token, else
    `chunk_alone`."""

    max_running: int = 32
    """More sequences at a time gain nothing on any machine measured, and each takes memory. Held ones do not count."""
    chunk_alone: int = 512
    chunk_beside: int = 128
    background_beside: int = 16
    """Of jobs in the background, beside others' next tokens: these wait little longer for it. There are none beside
    prompts, whose chunks are full."""


@dataclass(eq=False)
class Job:
    """One sequence as the scheduler sees it: ids, of which the first `computed` are in its memory.

    `max_length` is how many ids there can ever be. `wanted_from` is the first id whose logits are wanted: it and those
    after it are computed even where they could be reused. None is the last. `most` is of how many of them the
    logits are computed in a step at most. `is_background` says that it waits for all others. `is_held` says
    that its reader is behind, so it does not go on for now.
    """

    ids: list[int]
    max_length: int
    wanted_from: int | None = None
    most: int | None = None
    is_background: bool = False
    computed: int = 0
    kv: Room | None = None
    is_held: bool = False
    is_computing: bool = False
    """Whether a step of it is under way: until that is done it is left as it is."""
    cached_tokens: int = 0
    """How many of the prompt's tokens were found computed when it was first admitted."""
    arrival: int = 0
    preemptions: int = 0
    waits_for: tuple[Job, int] | None = None
    """Whose ids it begins with are being computed, and how many: when those are there, it can be admitted."""
    first_ids: Ids = field(init=False)
    """The ids that it came with: others may begin like them, or they like others."""

    def __post_init__(self) -> None:
        self.first_ids = id_array(self.ids)

    @property
    def remaining(self) -> int:
        return len(self.ids) - self.computed

    @property
    def wanted(self) -> int:
        """How many ids may be computed in the next step."""
        if self.most is None:
            return self.remaining
        return min(self.remaining, max(0, (self.wanted_from or 0) - self.computed) + self.most)

    @property
    def rank(self) -> tuple[bool, int]:
        """Who has a lower one goes first, and keeps its memory."""
        return self.is_background, self.arrival


@dataclass(frozen=True, eq=False)
class Work:
    """The next `count` tokens of a job."""

    job: Job
    count: int


class Scheduler:
    """Schedules all sequences of one model."""

    def __init__(self, memory: KvMemory, limits: SchedulerLimits, shares_prefixes: bool) -> None:
        self._memory = memory
        self._limits = limits
        self._shares_prefixes = shares_prefixes
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._prefixes = PrefixCache()
        self._arrivals = 0
        self.preemptions = 0
        """How often a job has lost its memory: it may have it back in the next plan."""

    @property
    def waiting(self) -> Sequence[Job]:
        return self._waiting

    @property
    def running(self) -> Sequence[Job]:
        return self._running

    @property
    def free_tokens(self) -> int:
        """How much memory new sequences may have: kept prefixes make room for them."""
        return self._memory.free_tokens + self._prefixes.tokens

    def add(self, job: Job) -> None:
        self._arrivals += 1
        job.arrival = self._arrivals
        insort(self._waiting, job, key=_rank)

    def remove(self, job: Job, keep: bool = True) -> None:
        """Forget a job that is over, or that nobody wants any more. With `keep` its keys and values may serve others.
        Idempotent."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._running:
            self._running.remove(job)
        if job.kv is None:
            return
        kv, job.kv = job.kv, None
        if keep and self._shares_prefixes and job.computed >= REUSE_TOKENS:
            for dropped in self._prefixes.put(Prefix(id_array(job.ids[: job.computed]), kv)):
                self._memory.close(dropped)
        else:
            self._memory.close(kv)

    def forget_prefixes(self) -> None:
        """Give all memory back that no sequence uses."""
        while self._evict_oldest():
            pass

    def plan(self) -> list[Work]:
        """What to compute now. Each job's memory has room for it. Empty when there is nothing to do."""
        self._admit()
        ready = [job for job in self._running if not job.is_held and not job.is_computing]
        decoding = [Work(job, 1) for job in ready if job.remaining == 1 and not job.is_background]
        prompts = [job for job in ready if job.remaining > 1 and not job.is_background]
        is_beside = bool(decoding) or any(job.is_computing and not job.is_background for job in self._running)
        wanted = decoding + shared_chunk(prompts, self._limits.chunk_beside if is_beside else self._limits.chunk_alone)
        if not prompts:
            chunk = self._limits.background_beside if is_beside else self._limits.chunk_alone
            wanted += shared_chunk([job for job in ready if job.is_background], chunk)
        planned = [work for work in wanted if self._make_room(work)]
        return [work for work in planned if work.job.kv is not None]  # one may have lost its memory to an older one

    def _admit(self) -> None:
        for job in list(self._waiting):
            if self._running_before(job) >= self._limits.max_running:
                return
            if job.is_held or _is_waiting(job):
                continue
            source, common = self._best_source(job)
            job.waits_for = (source, common) if isinstance(source, Job) else None
            if _is_waiting(job):
                continue
            if not self._start(job, source, common):
                return
            job.waits_for = None
            self._waiting.remove(job)
            insort(self._running, job, key=_rank)

    def _running_before(self, job: Job) -> int:
        """How many have a place that this job cannot have. Those in the background take none from others."""
        return sum(not other.is_held and other.is_background <= job.is_background for other in self._running)

    def _best_source(self, job: Job) -> tuple[Job | Prefix | None, int]:
        """The prefix or job whose keys and values this job can begin with, and how many of them."""
        if not self._shares_prefixes:
            return None, 0
        best: tuple[Job | Prefix | None, int] = (None, 0)
        for source in (*self._prefixes, *self._running):
            common = common_length(source.ids if isinstance(source, Prefix) else source.first_ids, job.first_ids)
            if isinstance(source, Job) and source.is_held:
                common = min(common, source.computed)  # who knows when there will be more
            usable = reusable(common, len(job.ids) if job.wanted_from is None else job.wanted_from + 1)
            is_ready = isinstance(source, Prefix) or source.computed >= usable
            if usable > best[1] or (usable == best[1] > 0 and is_ready):
                best = source, usable
        return best

    def _start(self, job: Job, source: Job | Prefix | None, common: int) -> bool:
        """Give the job memory, and in it what it can reuse. False when it must wait for memory."""
        tokens = min(job.max_length, len(job.ids) + HEADROOM_TOKENS)
        if not self._free_for(job, whole_blocks(tokens)):
            return False
        if isinstance(source, Prefix) and common >= TAKE_OVER_SHARE * len(source.ids):
            kv = self._prefixes.take(source)
            if kv.capacity < tokens and not self._grow(kv, tokens):
                self._memory.close(kv)
                return False
        else:
            if isinstance(source, Prefix):
                self._prefixes.touch(source)  # so that it is the last to go
            self._evict_for(whole_blocks(tokens))
            opened = self._memory.open(tokens)
            if opened is None:
                return False
            kv = opened
            given = None if source is None else source.kv
            if given is None or not given.capacity or not self._memory.copy(given, kv, common):
                common = 0  # it had to go after all
        job.kv, job.computed = kv, common
        job.cached_tokens = max(job.cached_tokens, common) if job.preemptions == 0 else job.cached_tokens
        return True

    def _make_room(self, work: Work) -> bool:
        """Room for the work in its job's memory, at the cost of kept prefixes and then of others."""
        job = work.job
        if job.kv is None:
            return False
        needed = job.computed + work.count
        if needed <= job.kv.capacity:
            return True
        if self._grow(job.kv, min(job.max_length, max(needed, job.kv.capacity * 3 // 2))) or self._grow(job.kv, needed):
            return True
        for victim in self._victims(job):
            self._preempt(victim)
            if self._grow(job.kv, needed):
                return True
        self._preempt(job)
        return False

    def _victims(self, job: Job) -> list[Job]:
        """The jobs that give memory up for this one: those whose readers are behind, then those in the background and
        the younger ones, youngest first. One in the background takes nothing from others."""
        others = [
            other
            for other in self._running
            if other is not job
            and not other.is_computing
            and other.is_background >= job.is_background
            and (other.is_held or other.rank > job.rank)
        ]
        return sorted(others, key=lambda other: (other.is_held, other.rank), reverse=True)

    def _free_for(self, job: Job, tokens: int) -> bool:
        """Free so much memory for somebody new, if those whose readers are behind, and those in the background, can
        give what is missing."""
        givers = [other for other in self._victims(job) if other.is_held or other.is_background > job.is_background]
        if self.free_tokens + sum(other.kv.capacity for other in givers if other.kv is not None) < tokens:
            return False
        for giver in givers:
            if self.free_tokens >= tokens:
                break
            self._preempt(giver)
        return True

    def _preempt(self, job: Job) -> None:
        assert job.kv is not None
        self._memory.close(job.kv)
        job.kv, job.computed = None, 0
        job.preemptions += 1
        self.preemptions += 1
        self._running.remove(job)
        insort(self._waiting, job, key=_rank)

    def _grow(self, kv: Room, tokens: int) -> bool:
        self._evict_for(whole_blocks(tokens) - kv.capacity)
        return self._memory.grow(kv, tokens)

    def _evict_for(self, tokens: int) -> None:
        while self._memory.free_tokens < tokens and self._evict_oldest():
            pass

    def _evict_oldest(self) -> bool:
        oldest = self._prefixes.oldest()
        if oldest is None:
            return False
        self._memory.close(self._prefixes.take(oldest))
        return True


_rank = attrgetter("rank")


def _is_waiting(job: Job) -> bool:
    """Whether the beginning of its prompt is just being computed for another one."""
    if job.waits_for is None:
        return False
    source, common = job.waits_for
    return source.kv is not None and not source.is_held and source.computed < common


def shared_chunk(jobs: Sequence[Job], chunk: int) -> list[Work]:
    """Which tokens of their prompts these jobs, oldest first, compute now: at most `chunk` of them together."""
    if not jobs:
        return []
    oldest, others = jobs[0], sorted(jobs[1:], key=lambda job: job.wanted)
    wanted_by_others = sum(job.wanted for job in others)
    first = min(oldest.wanted, max(chunk - chunk // 2, chunk - wanted_by_others))
    works, left = [Work(oldest, first)], chunk - first
    for job in others:
        count = min(job.wanted, left)
        if count:
            works.append(Work(job, count))
        left -= count
    return works
