"""Measures how fast a backend is: sends requests, one and several at a time, and times the answers.

Knows nothing of networks and terminals. The clock is passed in, and so is whoever watches how far it is.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from p2pnet.errors import P2PNetError, UsageError, WorkerFailed
from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.backend import Backend

Monotonic = Callable[[], float]

MEASURED_S = 3.0
"""Single requests that take less are repeated until they have taken as much together: short ones swing."""
MAX_ROUNDS = 20

SEED = 0
PROMPT_IDS = range(32, 96)
"""Every vocabulary has these; which ids a prompt has makes no difference to its speed."""


@dataclass(frozen=True)
class Workload:
    """What is asked for. All prompts have one length, and so have all answers: their end tokens are ignored.
    `concurrencies` are how many requests are sent at the same moment, in the order in which they are measured."""

    concurrencies: tuple[int, ...] = (1, 8)
    prompt_tokens: int = 128
    answer_tokens: int = 64


@dataclass(frozen=True)
class Figures:
    """What the backend gave with so many requests at a time. Each round begins when the one before is over."""

    concurrency: int
    rounds: int
    tokens_per_s: float
    """Of all answers together, from the requests to the last token."""
    tokens_per_s_each: float | None
    """Of one answer after its first token, the median. None when all its tokens came at once."""
    first_token_median_s: float
    first_token_worst_s: float
    prefill_tokens_per_s: float
    """Of all prompts together, from the requests to the first token of the last answer that begins."""


@dataclass(frozen=True)
class Stage:
    """How far the benchmark is. `concurrency` None is the warm-up, which is not measured."""

    concurrency: int | None
    done_tokens: int
    total_tokens: int


Watch = Callable[[Stage], None]


@dataclass(frozen=True)
class Timing:
    """When the tokens of one answer came, in seconds after its round began. Several tokens may come first together:
    those of one character do."""

    first_s: float
    first_tokens: int
    last_s: float
    tokens: int


Round = Sequence[Timing]


class Benchmark:
    """Measures one backend, by its first model."""

    def __init__(self, backend: Backend, workload: Workload, now_s: Monotonic, watch: Watch | None = None) -> None:
        self._backend = backend
        self._workload = workload
        self._now_s = now_s
        self._watch = watch
        self._prompts = prompts(workload.prompt_tokens)
        self._model = backend.models[0]

    async def run(self) -> tuple[Figures, ...]:
        """The figures for each concurrency, after a warm-up. Raises UsageError when the workload does not fit."""
        self._check()
        workload = self._workload
        tokens = workload.answer_tokens
        warm_up = await self._round(1, Counter(None, tokens, self._watch))
        rounds = rounds_for(warm_up[0].last_s)
        counter = Counter(None, rounds * tokens * sum(workload.concurrencies), self._watch)
        found = []
        for concurrency in workload.concurrencies:
            counter.concurrency = concurrency
            timings = [await self._round(concurrency, counter) for _ in range(rounds)]
            found.append(figures(timings, workload.prompt_tokens))
        return tuple(found)

    def _check(self) -> None:
        prompt_tokens, answer_tokens = self._workload.prompt_tokens, self._workload.answer_tokens
        if prompt_tokens + answer_tokens > self._model.context_length:
            raise UsageError(
                f"The model holds {self._model.context_length} tokens here, but a prompt of {prompt_tokens} and an "
                f"answer of {answer_tokens} are {prompt_tokens + answer_tokens}.",
                "Use fewer --prompt-tokens or --tokens.",
            )

    async def _round(self, concurrency: int, counter: Counter) -> Round:
        """Send so many requests at once, and wait for the end of all answers."""
        requests = [self._request(next(self._prompts)) for _ in range(concurrency)]
        began_s = self._now_s()
        try:
            async with asyncio.TaskGroup() as group:
                answers = [group.create_task(self._time(request, began_s, counter)) for request in requests]
        except* P2PNetError as failures:
            failure = failures.exceptions[0]
        else:
            return [answer.result() for answer in answers]
        raise UsageError(
            f"The model failed at a concurrency of {concurrency}: {failure}.",
            "Try a smaller --concurrency, fewer --prompt-tokens, or a smaller model.",
        ) from failure

    def _request(self, prompt: tuple[int, ...]) -> GenerateRequest:
        return GenerateRequest(
            "bench",
            self._model.id,
            TokenPrompt(prompt),
            sampling=Sampling(temperature=0),
            max_tokens=self._workload.answer_tokens,
            ignore_eos=True,
        )

    async def _time(self, request: GenerateRequest, began_s: float, counter: Counter) -> Timing:
        first: tuple[float, int] | None = None
        last_s, tokens = 0.0, 0
        async with aclosing(self._backend.generate(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta) and event.token_ids:
                    count = len(event.token_ids)
                    last_s = self._now_s() - began_s
                    first = first or (last_s, count)
                    tokens += count
                    counter.add(count)
        if first is None:
            raise WorkerFailed("an answer had no tokens")
        return Timing(*first, last_s, tokens)


class Counter:
    """Counts tokens as they come, and reports each further percent: a bar that moves more often costs time itself."""

    def __init__(self, concurrency: int | None, total_tokens: int, watch: Watch | None) -> None:
        self.concurrency = concurrency
        self._total = total_tokens
        self._watch = watch
        self._done = 0
        self._told = -1

    def add(self, tokens: int) -> None:
        self._done += tokens
        percent = self._done * 100 // self._total
        if self._watch is not None and percent > self._told:
            self._told = percent
            self._watch(Stage(self.concurrency, self._done, self._total))


def prompts(length: int) -> Iterator[tuple[int, ...]]:
    """Prompts that are always the same, and of which no two begin alike: nothing that was computed for one serves
    another."""
    draw = random.Random(SEED)
    while True:
        yield tuple(draw.choices(PROMPT_IDS, k=length))


def rounds_for(request_s: float) -> int:
    """How often to repeat a round whose single request takes this long."""
    return max(1, min(MAX_ROUNDS, math.ceil(MEASURED_S / max(request_s, 1e-9))))


def figures(rounds: Sequence[Round], prompt_tokens: int) -> Figures:
    """The figures of rounds with the same number of requests. Pure."""
    timings = [timing for timings in rounds for timing in timings]
    paces = [
        (timing.tokens - timing.first_tokens) / (timing.last_s - timing.first_s)
        for timing in timings
        if timing.last_s > timing.first_s
    ]
    return Figures(
        concurrency=len(rounds[0]),
        rounds=len(rounds),
        tokens_per_s=sum(timing.tokens for timing in timings) / _until_last(rounds, lambda timing: timing.last_s),
        tokens_per_s_each=statistics.median(paces) if paces else None,
        first_token_median_s=statistics.median(timing.first_s for timing in timings),
        first_token_worst_s=max(timing.first_s for timing in timings),
        prefill_tokens_per_s=prompt_tokens * len(timings) / _until_last(rounds, lambda timing: timing.first_s),
    )


def _until_last(rounds: Sequence[Round], moment: Callable[[Timing], float]) -> float:
    """The seconds after which the last answer of a round has come to this moment, added up over all rounds."""
    return sum(max(map(moment, timings)) for timings in rounds)
