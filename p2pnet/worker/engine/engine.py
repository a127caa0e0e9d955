"""Computes all answers of one model in a thread, step by step: schedule, run, sample, send.

Sequences join and leave between two steps. A step that fails is repeated one sequence at a time, so that only the one
at fault fails. Knows nothing of requests and prompts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic

import torch

from p2pnet.errors import WorkerFailed
from p2pnet.worker.engine.computation import Computation, E
from p2pnet.worker.engine.kv_store import Kv
from p2pnet.worker.engine.runner import Part, Pipelined, Runner
from p2pnet.worker.engine.scheduler import Job, Scheduler, Work
from p2pnet.worker.engine.speculation import Speculation, drafts_of
from p2pnet.worker.engine.speed import Speedometer
from p2pnet.worker.engine.turns import Turns

logger = logging.getLogger(__name__)

MAX_LEAD_DELTAS = 64
"""How far a sequence may be ahead of its reader: enough to ride out a slow network moment, and small. Then it makes
room for others, and goes on when its reader has caught up."""

PREFIX_IDLE_S = 300.0
"""After this long without work the kept prefixes' memory goes back to the machine's owner."""


@dataclass(frozen=True)
class Counts:
    """What an engine has done since it started."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompts' tokens were found computed."""
    prefix_hits: int = 0
    preemptions: int = 0


@dataclass(frozen=True, eq=False)
class _Step:
    """Works that are being computed, and what is guessed of each. `result` waits for them; see `Pipelined`."""

    works: list[Work]
    drafts: list[Several[int]]
    parts: list[Part]
    result: Callable[[], list[torch.Tensor]]
    began_s: float


class EngineAnswer(Generic[E]):
    """One sequence in the engine, and its reader in the event loop."""

    def __init__(self, sequence: Computation[E], loop: asyncio.AbstractEventLoop) -> None:
        self.sequence = sequence
        self.is_cancelled = False
        self.has_left: asyncio.Future[None] = loop.create_future()
        """Done once the engine does not know it any more."""
        self._loop = loop
        self._inbox: asyncio.Queue[E | None] = asyncio.Queue()
        self._failure: WorkerFailed | None = None
        self._sent = 0
        self._taken = 0

    @property
    def is_far_ahead(self) -> bool:
        return self._sent - self._taken >= MAX_LEAD_DELTAS

    def send(self, deltas: Several[E]) -> None:
        """Send deltas to the reader. Called in the engine's thread."""
        self._sent += len(deltas)
        if deltas:
            self._call(lambda: self._put(deltas))

    def leave(self, failure: WorkerFailed | None = None) -> None:
        """Tell the reader that nothing more will come. Called in the engine's thread."""
        self._failure = failure
        self._call(self._end)

    async def next(self, caught_up: Callable[[], None]) -> E | None:
        """The next delta; None at the end. Raises WorkerFailed."""
        delta = await self._inbox.get()
        if delta is None:
            if self._failure is not None:
                raise self._failure
            return None
        self._taken += 1
        if self._sent - self._taken == MAX_LEAD_DELTAS - 1:  # in this order, whatever the engine does meanwhile
            caught_up()
        return delta

    def _call(self, act: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(act)

    def _put(self, deltas: Several[E]) -> None:
        for delta in deltas:
            self._inbox.put_nowait(delta)

    def _end(self) -> None:
        self._inbox.put_nowait(None)
        if not self.has_left.done():
            self.has_left.set_result(None)


class Engine:
    """Computes sequences with one runner. `turns` are those of the machine, shared with its other models."""

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler,
        turns: Turns,
        speed: Speedometer,
        speculation: Speculation | None = None,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._turns = turns
        self._speed = speed
        self._speculation = speculation
        self._steps: deque[_Step] = deque()
        """Those under way, in the order in which they have begun."""
        self._stepped_s = 0.0
        """When the last one was done."""
        self._answers: dict[Job, EngineAnswer[Any]] = {}
        self._arrived: deque[EngineAnswer[Any]] = deque()
        self._changed = threading.Condition()
        self._has_news = False
        self._is_closing = False
        self.counts = Counts()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def free_tokens(self) -> int:
        return self._scheduler.free_tokens

    async def answer(self, sequence: Computation[E]) -> AsyncGenerator[E, None]:
        """Compute a sequence to its end. Raises WorkerFailed. Closing the generator takes the sequence out within one
        step, and returns when it is out."""
        if sequence.finish_reason is not None:
            return
        answer = EngineAnswer(sequence, asyncio.get_running_loop())
        with self._changed:
            if self._is_closing:
                raise WorkerFailed("the worker is stopping")
            self._arrived.append(answer)
        self._notify()
        try:
            while (delta := await answer.next(self._notify)) is not None:
                yield delta
        finally:
            answer.is_cancelled = True
            self._notify()
            await asyncio.shield(answer.has_left)

    async def close(self) -> None:
        """End the thread. What is still being computed fails."""
        with self._changed:
            self._is_closing = True
        self._notify()
        await asyncio.to_thread(self._thread.join)

    def _notify(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify()

    def _run(self) -> None:
        """Computes until the engine is closed, in a thread that computes nothing itself: torch is only touched in
        turns."""
        while not self._is_closing:
            try:
                if not self._turns.run(self._turn):
                    self._wait()
            except (
                BaseException
            ):  # the edge of this thread, panics of Rust libraries too: or nobody were answered again
                logger.exception("the engine failed, and with it all that it was computing")
                self._steps.clear()
                for answer in list(self._answers.values()):
                    self._part_from(answer, WorkerFailed("the worker failed"))
        for answer in (*self._answers.values(), *self._arrived):
            answer.leave(WorkerFailed("the worker is stopping"))

    def _turn(self) -> bool:
        """Compute one step. Returns whether there was anything to compute, or may be in the next turn."""
        self._welcome()
        self._part_from_cancelled()
        preemptions = self._scheduler.preemptions
        lanes = self._runner.lanes if isinstance(self._runner, Pipelined) else 1
        while len(self._steps) < lanes and (works := self._plan(lanes)):
            self._steps.append(self._begin(works))
        if self._steps:
            self._finish(self._steps.popleft())
            return True
        return self._scheduler.preemptions > preemptions

    def _welcome(self) -> None:
        with self._changed:
            arrived, self._arrived = self._arrived, deque()
            self._has_news = False
        for answer in arrived:
            self._answers[answer.sequence.job] = answer
            self._scheduler.add(answer.sequence.job)

    def _part_from_cancelled(self) -> None:
        for answer in list(self._answers.values()):
            if answer.is_cancelled and not answer.sequence.job.is_computing:
                self._part_from(answer)

    def _part_from(self, answer: EngineAnswer[Any], failure: WorkerFailed | None = None) -> None:
        job, usage = answer.sequence.job, answer.sequence.usage
        self._scheduler.remove(job, keep=failure is None)
        del self._answers[job]
        if self._speculation is not None:
            self._speculation.forget(job)
        self.counts = replace(
            self.counts,
            prompt_tokens=self.counts.prompt_tokens + usage.prompt_tokens,
            cached_tokens=self.counts.cached_tokens + usage.cached_tokens,
            prefix_hits=self.counts.prefix_hits + (usage.cached_tokens > 0),
            preemptions=self.counts.preemptions + job.preemptions,
        )
        answer.leave(failure)

    def _plan(self, lanes: int) -> list[Work]:
        """The works of the next step: where several are under way, an even part of what runs."""
        for job, answer in self._answers.items():
            job.is_held = answer.is_far_ahead
        works = self._scheduler.plan()
        return works[: -(-len(self._scheduler.running) // lanes)]

    def _wait(self) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._has_news or self._is_closing, PREFIX_IDLE_S):
                return
        if not self._answers:
            self._scheduler.forget_prefixes()

    def _begin(self, works: list[Work]) -> _Step:
        drafts = drafts_of(self._speculation, works, [self._answers[work.job].sequence for work in works])
        parts = [self._part(work, guessed) for work, guessed in zip(works, drafts, strict=True)]
        for work in works:
            work.job.is_computing = True
        began_s = time.perf_counter()
        result: Callable[[], list[torch.Tensor]] = partial(self._runner.forward, parts)
        if isinstance(self._runner, Pipelined):
            try:
                result = self._runner.begin(parts)
            except Exception:
                logger.warning("a step did not begin, and is done when its turn comes", exc_info=True)
        return _Step(works, drafts, parts, result, began_s)

    def _finish(self, step: _Step) -> None:
        found = self._compute(step)
        decoded = 0
        for work, drafts, result in zip(step.works, step.drafts, found, strict=True):
            work.job.is_computing = False
            answer = self._answers[work.job]
            if isinstance(result, WorkerFailed):
                self._part_from(answer, result)
            else:
                decoded += self._advance(answer, work, drafts, result)
        now_s = time.perf_counter()
        took_s, self._stepped_s = now_s - max(step.began_s, self._stepped_s), now_s
        self._speed.note(decoded, sum(work.count for work in step.works if work.count > 1), took_s)

    def _compute(self, step: _Step) -> list[torch.Tensor | WorkerFailed]:
        """The logits that each work wants, or why there are none."""
        if len(step.parts) == 1:
            return [self._compute_alone(step.result)]
        if self._runner.is_packed:
            try:
                return list(step.result())
            except Exception:  # whatever one sequence did to the model, the others go on
                logger.warning("a step failed and is repeated one sequence at a time", exc_info=True)
                self._free_memory()
        return [self._compute_alone(partial(self._runner.forward, [part])) for part in step.parts]

    def _part(self, work: Work, drafts: Several[int]) -> Part:
        job, sequence = work.job, self._answers[work.job].sequence
        assert isinstance(job.kv, Kv)
        ids = [*job.ids[job.computed : job.computed + work.count], *drafts]
        rows = sequence.rows_wanted(work.count) + len(drafts)
        return Part(ids, job.computed, job.kv, rows, len(sequence.prompt_ids))

    def _compute_alone(self, result: Callable[[], list[torch.Tensor]]) -> torch.Tensor | WorkerFailed:
        try:
            return result()[0]
        except Exception as error:  # it is this sequence's own
            return self._as_worker_failed(error)

    def _advance(self, answer: EngineAnswer[Any], work: Work, drafts: Several[int], logits: torch.Tensor) -> int:
        """Take the logits in, those after drafts as long as these are what is sampled; returns how many tokens were."""
        sequence, ids = answer.sequence, work.job.ids
        length, own = len(ids), len(logits) - len(drafts)
        try:
            self._take(answer, work.count, logits[:own])
            for draft, row in zip(drafts, logits[own:], strict=True):
                if sequence.finish_reason is not None or ids[-1] != draft:
                    break
                self._take(answer, 1, row[None])
        except Exception as error:  # logits that are not numbers, a grammar that has no way on: this sequence's own
            self._part_from(answer, self._as_worker_failed(error))
            return 0
        if self._speculation is not None:
            self._speculation.heard(work.job, ids[length:])
        if sequence.finish_reason is not None:
            self._part_from(answer)
        return len(ids) - length

    def _take(self, answer: EngineAnswer[Any], count: int, logits: torch.Tensor) -> None:
        job = answer.sequence.job
        start, job.computed = job.computed, job.computed + count
        answer.send(answer.sequence.take(logits, start))

    def _as_worker_failed(self, error: Exception) -> WorkerFailed:
        """What the requester is told. What torch said stays in the worker's own log."""
        if isinstance(error, WorkerFailed):
            return error
        logger.error("a sequence failed", exc_info=error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            self._free_memory()
            return WorkerFailed("the worker ran out of memory")
        return WorkerFailed("the model failed while it computed")

    def _free_memory(self) -> None:
        self._scheduler.forget_prefixes()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
