"""The scheduler's rules, held over random jobs: memory, chunks, fairness, reuse, and that everybody comes to an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.worker.engine.memory import BLOCK_TOKENS, Room, whole_blocks
from p2pnet.worker.engine.prefixes import REUSE_TOKENS
from p2pnet.worker.engine.scheduler import HEADROOM_TOKENS, Job, Scheduler, SchedulerLimits, Work, shared_chunk
from tests.depth import examples

CHUNK_ALONE, CHUNK_BESIDE = 96, 32
MOST = 24
LIMITS = SchedulerLimits(max_running=4, chunk_alone=CHUNK_ALONE, chunk_beside=CHUNK_BESIDE)


@dataclass(eq=False)
class Paper:
    """A room that remembers which ids were written to it."""

    capacity: int
    written: list[int] = field(default_factory=list)


class PaperMemory:
    """Memory without tensors. `copies` says whether the machine has what copying takes."""

    def __init__(self, total_tokens: int, copies: bool = True) -> None:
        self.total_tokens = self.free_tokens = total_tokens
        self._copies = copies

    def open(self, tokens: int) -> Paper | None:
        capacity = whole_blocks(tokens)
        if capacity > self.free_tokens:
            return None
        self.free_tokens -= capacity
        return Paper(capacity)

    def grow(self, room: Room, tokens: int) -> bool:
        assert isinstance(room, Paper) and tokens >= len(room.written)
        capacity = whole_blocks(tokens)
        if capacity - room.capacity > self.free_tokens:
            return False
        self.free_tokens -= capacity - room.capacity
        room.capacity = capacity
        return True

    def close(self, room: Room) -> None:
        assert isinstance(room, Paper) and room.capacity, "closed twice"
        self.free_tokens += room.capacity
        room.capacity = 0
        room.written.clear()

    def copy(self, source: Room, target: Room, tokens: int) -> bool:
        assert isinstance(source, Paper) and isinstance(target, Paper)
        assert not target.written and len(source.written) >= tokens <= target.capacity
        if self._copies:
            target.written.extend(source.written[:tokens])
        return self._copies


def next_id(ids: Sequence[int]) -> int:
    """As a model gives it: a function of what was before."""
    return (sum(ids[-3:]) * 31 + len(ids)) % 1000


class Swing:
    """A scheduler and what an engine does with it. Checks every plan."""

    def __init__(self, memory: PaperMemory, limits: SchedulerLimits = LIMITS, shares_prefixes: bool = True) -> None:
        self.memory = memory
        self.limits = limits
        self.shares_prefixes = shares_prefixes
        self.scheduler = Scheduler(memory, limits, shares_prefixes)
        self.done: list[Job] = []

    def add(self, *jobs: Job) -> None:
        for job in jobs:
            self.scheduler.add(job)

    def step(self) -> list[Work]:
        was_running = {job: job.computed for job in self.scheduler.running}
        works = self.scheduler.plan()
        self._check_memory(works)
        self._check_admitted(was_running)
        self._check_chunk(works, was_running)
        for work in works:
            self._compute(work)
        return works

    def run(self, max_steps: int) -> int:
        """To the end of all jobs; returns how many steps it took."""
        for count in range(max_steps):
            if not self.scheduler.running and not self.scheduler.waiting:
                return count
            assert self.step(), "nothing to do, and jobs left"
        raise AssertionError(f"not over after {max_steps} steps")

    def _check_memory(self, works: Sequence[Work]) -> None:
        held = sum(job.kv.capacity for job in self.scheduler.running if job.kv)
        assert self.scheduler.free_tokens + held == self.memory.total_tokens
        assert self.memory.free_tokens >= 0
        assert all(job.kv is None and job.computed == 0 for job in self.scheduler.waiting)
        assert len({id(work.job) for work in works}) == len(works)
        for work in works:
            assert work.job in self.scheduler.running and not work.job.is_held
            assert 1 <= work.count <= work.job.remaining
            assert isinstance(work.job.kv, Paper)
            assert work.job.computed + work.count <= work.job.kv.capacity
            written = work.job.kv.written[: work.job.computed]
            assert written == work.job.ids[: work.job.computed], "another's keys and values"

    def _check_admitted(self, was_running: dict[Job, int]) -> None:
        ready = [job for job in self.scheduler.running if not job.is_held]
        newcomers = [job for job in self.scheduler.running if job not in was_running]
        for job in newcomers:
            assert sum(other.is_background <= job.is_background for other in ready) <= self.limits.max_running
            assert job.computed % REUSE_TOKENS == 0
            assert job.computed < len(job.ids)
            assert not job.computed or self.shares_prefixes
            assert job.wanted_from is None or job.computed <= job.wanted_from
            passed = [
                other
                for other in self.scheduler.waiting
                if other.rank < job.rank and other not in was_running and not other.is_held
            ]
            assert all(other.waits_for is not None for other in passed), "somebody older still waits"

    def _check_chunk(self, works: Sequence[Work], was_running: dict[Job, int]) -> None:
        ready = [job for job in self.scheduler.running if not job.is_held and not job.is_background]
        behind = [job for job in self.scheduler.running if job.is_background]
        planned = {work.job: work.count for work in works}
        decoding = [job for job in ready if job.remaining == 1]
        prompts = [job for job in ready if job.remaining > 1]
        assert all(planned.get(job) == 1 for job in decoding), "a token was left out"
        chunk = self.limits.chunk_beside if decoding else self.limits.chunk_alone
        assert sum(planned.get(job, 0) for job in prompts) <= chunk
        of_those_behind = sum(planned.get(job, 0) for job in behind)
        assert of_those_behind <= (self.limits.background_beside if decoding else 0 if prompts else chunk)
        for work in (work for work in works if work.job.most is not None):
            assert work.count <= max(0, (work.job.wanted_from or 0) - work.job.computed) + MOST
        if prompts and not any(job in self.scheduler.waiting for job in was_running):
            assert planned[prompts[0]] >= min(prompts[0].remaining, chunk - chunk // 2)

    def _compute(self, work: Work) -> None:
        job = work.job
        assert isinstance(job.kv, Paper)
        job.kv.written[job.computed :] = job.ids[job.computed : job.computed + work.count]
        job.computed += work.count
        if job.remaining:
            return
        job.ids.append(next_id(job.ids))
        if len(job.ids) >= job.max_length:
            self.done.append(job)
            self.scheduler.remove(job)


def steps_enough(jobs: Sequence[Job]) -> int:
    """As many as they take one after the other, with half of the smallest chunk each: the oldest gets as much."""
    return sum(-(-job.max_length // (CHUNK_BESIDE // 2)) + job.max_length + 2 for job in jobs)


def job_of(
    prompt: int,
    new: int = 4,
    base: int = 0,
    common: int = 0,
    wanted_from: int | None = None,
    is_background: bool = False,
) -> Job:
    """A prompt of so many ids, of which the first `common` are those of all with this base."""
    job_of.counter += 1  # type: ignore[attr-defined]
    own = job_of.counter * 1000  # type: ignore[attr-defined]
    ids = [base * 7 + index for index in range(min(common, prompt))]
    ids += [own + index for index in range(prompt - len(ids))]
    return Job(ids, prompt + new, wanted_from, MOST if is_background else None, is_background)


job_of.counter = 1000  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Arrival:
    """A job, and when it comes, is held from and to, and is cancelled. In steps."""

    step: int
    prompt: int
    new: int
    base: int
    common: int
    wanted_from: int | None
    is_background: bool
    held_from: int | None
    held_to: int
    cancelled: int | None


arrivals = st.builds(
    Arrival,
    step=st.integers(0, 40),
    prompt=st.one_of(st.integers(1, 3), st.integers(1, 260)),
    new=st.integers(1, 60),
    base=st.integers(0, 2),
    common=st.sampled_from([0, 31, 32, 33, 64, 100, 200, 260]),
    wanted_from=st.none() | st.integers(0, 260),
    is_background=st.booleans(),
    held_from=st.none() | st.integers(0, 40),
    held_to=st.integers(0, 80),
    cancelled=st.none() | st.integers(0, 60),
)


@settings(max_examples=examples(300))
@given(
    st.lists(arrivals, min_size=1, max_size=14),
    st.sampled_from([320, 384, 640, 4096]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_any_jobs_at_any_time(
    plan: list[Arrival], total_tokens: int, shares_prefixes: bool, copies: bool, disturbed: bool
) -> None:
    """Memory of 320 tokens holds the largest job, and nothing beside it."""
    memory = PaperMemory(total_tokens, copies)
    swing = Swing(memory, shares_prefixes=shares_prefixes)
    jobs = [
        job_of(each.prompt, each.new, each.base, each.common, each.wanted_from, each.is_background) for each in plan
    ]
    lengths = [len(job.ids) for job in jobs]
    for step in range(82):
        for each, job in zip(plan, jobs, strict=True):
            if each.step == step:
                swing.add(job)
            if disturbed:
                job.is_held = each.held_from is not None and each.held_from <= step < each.held_to
                if each.cancelled == step and step >= each.step:
                    swing.scheduler.remove(job)
        swing.step()
    swing.run(steps_enough(jobs))
    cancelled = [job for each, job in zip(plan, jobs, strict=True) if disturbed and each.cancelled is not None]
    assert {job for job in jobs if job not in cancelled} <= set(swing.done)
    for job, length in zip(jobs, lengths, strict=True):
        assert [next_id(job.ids[:at]) for at in range(length, len(job.ids))] == job.ids[length:]
        assert job.cached_tokens <= length
        swing.scheduler.remove(job)  # once more
    swing.scheduler.forget_prefixes()
    assert memory.free_tokens == total_tokens


def wait(*counts: int) -> list[Job]:
    return [Job([0] * count, count + 1) for count in counts]


@pytest.mark.parametrize(
    ("remaining", "chunk", "expected"),
    [
        pytest.param([], 128, {}, id="nobody"),
        pytest.param([500], 128, {0: 128}, id="one has all"),
        pytest.param([50], 128, {0: 50}, id="one that is short"),
        pytest.param([500, 500], 128, {0: 64, 1: 64}, id="half each"),
        pytest.param([500, 10], 128, {0: 118, 1: 10}, id="what the others leave"),
        pytest.param([500, 300, 40], 128, {0: 64, 2: 40, 1: 24}, id="the shortest first"),
        pytest.param([500, 64, 64, 9], 128, {0: 64, 3: 9, 1: 55}, id="of equals the older"),
        pytest.param([10, 500, 500], 128, {0: 10, 1: 118}, id="what the oldest leaves"),
        pytest.param([500, 500], 1, {0: 1}, id="one token"),
        pytest.param([500, 500], 3, {0: 2, 1: 1}, id="an odd chunk"),
    ],
)
def test_shared_chunk(remaining: list[int], chunk: int, expected: dict[int, int]) -> None:
    jobs = wait(*remaining)
    assert {jobs.index(work.job): work.count for work in shared_chunk(jobs, chunk)} == expected


def running_after(total_tokens: int, jobs: Sequence[Job], steps: int = 1) -> list[int]:
    swing = Swing(PaperMemory(total_tokens))
    swing.add(*jobs)
    for _ in range(steps):
        swing.step()
    return [jobs.index(job) for job in swing.scheduler.running]


@pytest.mark.parametrize(
    ("total_tokens", "jobs", "expected"),
    [
        pytest.param(4096, [(10, 10)] * 3, [0, 1, 2], id="all fit"),
        pytest.param(4096, [(10, 10)] * 9, [0, 1, 2, 3], id="as many as may run"),
        pytest.param(192, [(10, 10)] * 4, [0, 1, 2], id="as many as memory holds"),
        pytest.param(256, [(64, 64), (200, 10), (1, 9)], [0], id="in order: no short one goes before a long one"),
        pytest.param(256, [(64, 64), (64, 64), (1, 9)], [0, 1], id="with room for the first tokens of an answer"),
        pytest.param(256, [(190, 2), (1, 9)], [0, 1], id="no more room than it can ever use"),
        pytest.param(64, [(10, 10)] * 2, [0], id="one block"),
    ],
)
def test_admission(total_tokens: int, jobs: list[tuple[int, int]], expected: list[int]) -> None:
    assert HEADROOM_TOKENS == BLOCK_TOKENS == 64
    assert running_after(total_tokens, [job_of(prompt, new) for prompt, new in jobs]) == expected


@pytest.mark.parametrize(
    ("first", "second", "cached"),
    [
        pytest.param((100, 20, 100), (200, 4, 100), 96, id="whole blocks"),
        pytest.param((100, 20, 31), (200, 4, 31), 0, id="less than a block"),
        pytest.param((96, 20, 96), (96, 4, 96), 64, id="not the last token of the prompt"),
        pytest.param((97, 20, 97), (97, 4, 97), 96, id="all but the last token of the prompt"),
        pytest.param((250, 4, 100), (101, 4, 100), 96, id="a small part of a long one"),
        pytest.param((40, 4, 0), (200, 4, 0), 0, id="another one"),
        pytest.param((1, 4, 1), (1, 4, 1), 0, id="a single token"),
    ],
)
@pytest.mark.parametrize("is_over", [True, False])
def test_a_prompt_goes_on_from_what_begins_like_it(
    first: tuple[int, int, int], second: tuple[int, int, int], cached: int, is_over: bool
) -> None:
    one, other = (job_of(prompt, new, 5, common) for prompt, new, common in (first, second))
    swing = Swing(PaperMemory(4096))
    swing.add(one)
    while (one not in swing.done) if is_over else (len(one.ids) < first[0] + 2):
        swing.step()
    swing.add(other)
    swing.run(1000)
    assert other.cached_tokens == cached


def test_a_chat_goes_on_in_the_memory_of_its_last_turn() -> None:
    swing = Swing(PaperMemory(4096))
    one = job_of(200, 20)
    swing.add(one)
    swing.run(1000)
    free = swing.memory.free_tokens
    turn = Job([*one.ids, *range(30)], 300)
    swing.add(turn)
    swing.step()
    assert turn.cached_tokens == (len(one.ids) - 1) // REUSE_TOKENS * REUSE_TOKENS
    assert swing.memory.free_tokens > free - 128, "taken over, not copied"


def test_who_needs_every_token_computed_takes_nothing_over() -> None:
    swing = Swing(PaperMemory(4096))
    swing.add(*(job_of(100, 4, 5, 100) for _ in range(2)))
    swing.run(1000)
    picky = job_of(100, 4, 5, 100, wanted_from=0)
    swing.add(picky)
    swing.run(1000)
    assert picky.cached_tokens == 0


def test_models_that_share_nothing() -> None:
    swing = Swing(PaperMemory(4096), shares_prefixes=False)
    jobs = [job_of(100, 4, 5, 100) for _ in range(3)]
    swing.add(*jobs)
    assert len(swing.step()) >= 2
    swing.run(1000)
    assert [job.cached_tokens for job in jobs] == [0, 0, 0]
    assert swing.memory.free_tokens == 4096


def test_equal_prompts_are_computed_once() -> None:
    swing = Swing(PaperMemory(4096))
    jobs = [job_of(225, 3, 5, 225) for _ in range(4)]
    stranger = job_of(30)
    swing.add(*jobs, stranger)
    swing.step()
    assert list(swing.scheduler.running) == [jobs[0], stranger], "the others wait for the first, and hold nobody up"
    swing.run(1000)
    assert [job.cached_tokens for job in jobs] == [0, 224, 224, 224]


@pytest.mark.parametrize("keep", [True, False])
def test_who_waited_for_a_prompt_that_is_cancelled(keep: bool) -> None:
    swing = Swing(PaperMemory(4096))
    one, other = (job_of(250, 3, 5, 250) for _ in range(2))
    swing.add(one, other)
    swing.step()
    swing.scheduler.remove(one, keep)
    swing.step()
    assert other in swing.scheduler.running
    assert other.cached_tokens == (CHUNK_ALONE if keep else 0)


def test_nobody_waits_for_a_prompt_that_is_held() -> None:
    swing = Swing(PaperMemory(4096))
    one, other = (job_of(250, 3, 5, 250) for _ in range(2))
    swing.add(one, other)
    swing.step()
    one.is_held = True
    swing.step()
    assert other in swing.scheduler.running
    assert other.cached_tokens == CHUNK_ALONE


def test_held_jobs_take_no_place() -> None:
    swing = Swing(PaperMemory(4096))
    held, others = [job_of(10, 50) for _ in range(4)], [job_of(10, 5) for _ in range(4)]
    swing.add(*held)
    swing.step()
    for job in held:
        job.is_held = True
    swing.add(*others)
    while len(swing.done) < 4:
        assert swing.step()
    assert set(swing.done) == set(others)
    for job in held:
        job.is_held = False
    swing.run(1000)


def test_held_jobs_give_their_memory_to_who_waits_and_get_it_again() -> None:
    swing = Swing(PaperMemory(320))
    held, other = job_of(250, 60), job_of(250, 20)
    swing.add(held)
    for _ in range(10):
        swing.step()
    held.is_held = True
    swing.add(other)
    for _ in range(100):
        swing.step()
    assert swing.done == [other]
    assert not swing.step(), "who is held is not computed, and takes no memory from the prefixes"
    assert not swing.scheduler.running
    held.is_held = False
    swing.run(1000)
    assert swing.done == [other, held]
    assert held.preemptions == 1


def test_held_jobs_keep_memory_that_would_not_be_enough() -> None:
    swing = Swing(PaperMemory(640))
    busy, held, waiting = job_of(250, 60), job_of(20, 60), job_of(400, 20)
    swing.add(busy, held)
    swing.step()
    held.is_held = True
    swing.add(waiting)
    swing.step()
    assert held in swing.scheduler.running


def test_who_is_being_computed_is_neither_planned_nor_preempted_nor_held_up_for() -> None:
    """Until its step is done: it is left out, and whoever else there is gives memory up."""
    swing = Swing(PaperMemory(5 * BLOCK_TOKENS))
    jobs = [job_of(10, new=400, base=1000), job_of(10, new=400, base=2000)]
    swing.add(*jobs)
    swing.step()
    jobs[1].is_computing = jobs[1].is_held = True
    assert {work.job for work in swing.scheduler.plan()} == {jobs[0]}
    kv = jobs[1].kv
    jobs[0].ids.extend(range(4 * BLOCK_TOKENS))
    jobs[0].computed = len(jobs[0].ids) - 1
    swing.scheduler.plan()
    assert jobs[1].kv is kv is not None
    assert jobs[0].kv is None
    jobs[1].is_computing = jobs[1].is_held = False
    assert jobs[1] in {work.job for work in swing.scheduler.plan()}


def test_the_youngest_gives_its_memory_up_and_comes_back() -> None:
    swing = Swing(PaperMemory(384))
    jobs = [job_of(10, 150) for _ in range(3)]
    swing.add(*jobs)
    swing.run(2000)
    assert [job.preemptions for job in jobs] == [0, 0, 1]
    assert swing.done == jobs


def test_kept_prefixes_go_before_anybody_is_preempted_the_oldest_first() -> None:
    swing = Swing(PaperMemory(640))
    first, second = job_of(120, 3), job_of(120, 3)
    for job in (first, second):
        swing.add(job)
        swing.run(100)
    big = job_of(250, 180)
    swing.add(big)
    swing.run(1000)
    assert big.preemptions == 0
    again = [Job(list(job.ids[:100]), 104) for job in (second, first)]
    swing.add(*again)
    swing.run(1000)
    assert [job.cached_tokens for job in again] == [96, 0]


def test_a_copy_that_fails_costs_the_reuse_only() -> None:
    swing = Swing(PaperMemory(4096, copies=False))
    one, other = (job_of(100, 30, 5, 100) for _ in range(2))
    swing.add(one, other)
    swing.run(1000)
    assert other.cached_tokens == 0
    assert len(swing.done) == 2


def test_removing_a_job_that_is_not_there() -> None:
    swing = Swing(PaperMemory(640))
    job = job_of(10)
    swing.scheduler.remove(job)
    swing.add(job)
    swing.scheduler.remove(job)
    swing.scheduler.remove(job)
    assert not swing.step()


CROWDS: dict[str, Callable[[], list[Job]]] = {
    "5,000 short ones": lambda: [job_of(1) for _ in range(5000)],
    "5,000 different ones": lambda: [job_of(200) for _ in range(5000)],
    "1,000 equal ones": lambda: [job_of(1000, 4, 5, 1000) for _ in range(1000)],
    "16 equal ones of 100,000 tokens": lambda: [job_of(100_000, 4, 5, 100_000) for _ in range(16)],
}


@pytest.mark.parametrize("make", CROWDS.values(), ids=CROWDS)
def test_planning_takes_no_time_to_speak_of(make: Callable[[], list[Job]]) -> None:
    """A step of the smallest model takes some milliseconds. CPU time, and the quickest of several: others compute on
    this machine too."""
    scheduler = Scheduler(PaperMemory(1 << 22), SchedulerLimits(), shares_prefixes=True)
    for job in make():
        scheduler.add(job)
    scheduler.plan()
    took = []
    for _ in range(5):
        began = time.thread_time()
        scheduler.plan()
        took.append(time.thread_time() - began)
    assert min(took) < 0.02


def test_who_wants_the_logits_of_an_answer_takes_over_what_comes_before_it() -> None:
    swing = Swing(PaperMemory(4096))
    swing.add(job_of(100, 4, 5, 100))
    swing.run(1000)
    picky = job_of(100, 4, 5, 100, wanted_from=70)
    swing.add(picky)
    swing.run(1000)
    assert picky.cached_tokens == 64


def test_what_is_in_the_background_waits_for_prompts_and_takes_little_beside_answers() -> None:
    swing = Swing(PaperMemory(4096))
    behind = job_of(200, 1, is_background=True)
    swing.add(behind, job_of(90, 20))
    assert [work.job.is_background for work in swing.step()] == [False]
    assert [(work.job.is_background, work.count) for work in swing.step()] == [(False, 1), (True, 16)]
    swing.run(1000)
    assert behind in swing.done


def test_what_is_in_the_background_gives_its_place_and_its_memory_to_whoever_comes() -> None:
    swing = Swing(PaperMemory(512))
    behind = [job_of(120, 60, is_background=True) for _ in range(2)]
    swing.add(*behind)
    swing.step()
    assert [job.kv is None for job in behind] == [False, False]
    others = [job_of(60, 60) for _ in range(4)]
    swing.add(*others)
    swing.step()
    assert swing.scheduler.running == others, "as many as may run, in all of the memory"
    swing.run(1000)
    assert swing.done[-2:] == behind and all(job.preemptions for job in behind)
    assert not any(job.preemptions for job in others), "nothing was taken for those behind"
