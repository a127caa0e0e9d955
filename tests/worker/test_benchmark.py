"""What `p2pnet bench` measures: figures from times, rounds, prompts that nothing is reused for, and a real model."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from pathlib import Path

import pytest
import torch

from p2pnet.errors import UsageError
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.benchmark import (
    MAX_ROUNDS,
    Benchmark,
    Figures,
    Stage,
    Timing,
    Workload,
    figures,
    prompts,
    rounds_for,
)
from p2pnet.worker.engine.peak_memory import Peak, PeakMemory
from p2pnet.worker.engine.prefixes import REUSE_TOKENS

TOKEN_S = 0.5


class FakeTime:
    """A clock that its own sleepers move: time passes only while somebody waits."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        wakes_s = self.now_s + seconds
        await asyncio.sleep(0)  # everybody else who waits for this moment has begun to wait
        self.now_s = max(self.now_s, wakes_s)


def echo(clock: FakeTime, **options: object) -> EchoBackend:
    """One token each TOKEN_S, however many requests there are."""
    return EchoBackend(EchoOptions(says="numbers", delay_s=TOKEN_S, **options), sleep=clock.sleep)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        pytest.param(
            [[Timing(0.5, 1, 2.5, 9)]],
            Figures(1, 1, 9 / 2.5, 4.0, 0.5, 0.5, 100 / 0.5),
            id="one request",
        ),
        pytest.param(
            [[Timing(1.0, 1, 3.0, 5), Timing(2.0, 1, 4.0, 5)]],
            Figures(2, 1, 10 / 4.0, 2.0, 1.5, 2.0, 200 / 2.0),
            id="two that begin one after the other",
        ),
        pytest.param(
            [[Timing(1.0, 1, 3.0, 5)], [Timing(2.0, 1, 3.0, 5)], [Timing(3.0, 1, 4.0, 5)]],
            Figures(1, 3, 15 / 10.0, 4.0, 2.0, 3.0, 300 / 6.0),
            id="three rounds",
        ),
        pytest.param(
            [[Timing(1.0, 3, 2.0, 5)]],
            Figures(1, 1, 5 / 2.0, 2.0, 1.0, 1.0, 100 / 1.0),
            id="several tokens came first",
        ),
        pytest.param(
            [[Timing(1.0, 5, 1.0, 5)]],
            Figures(1, 1, 5 / 1.0, None, 1.0, 1.0, 100 / 1.0),
            id="all tokens came at once",
        ),
    ],
)
def test_figures_of_times(rounds: list[list[Timing]], expected: Figures) -> None:
    assert figures(rounds, prompt_tokens=100) == expected


@pytest.mark.parametrize(
    ("request_s", "rounds"), [(0.0, MAX_ROUNDS), (0.01, MAX_ROUNDS), (1.0, 3), (1.1, 3), (2.9, 2), (3.0, 1), (600.0, 1)]
)
def test_short_requests_are_repeated(request_s: float, rounds: int) -> None:
    assert rounds_for(request_s) == rounds


def test_no_two_prompts_begin_alike_and_all_are_the_same_each_time() -> None:
    some = list(islice(prompts(128), 300))
    assert {len(prompt) for prompt in some} == {128}
    assert len({prompt[:REUSE_TOKENS] for prompt in some}) == len(some)
    assert some == list(islice(prompts(128), 300))


async def test_what_an_even_backend_gives() -> None:
    """A warm-up of 4 tokens takes 2 s, so there are two rounds; 8 requests at a time give 8 times as much."""
    clock, stages = FakeTime(), list[Stage]()
    benchmark = Benchmark(echo(clock), Workload((1, 8), prompt_tokens=10, answer_tokens=4), clock, stages.append)
    assert await benchmark.run() == (
        Figures(1, 2, 1 / TOKEN_S, 1 / TOKEN_S, TOKEN_S, TOKEN_S, 10 / TOKEN_S),
        Figures(8, 2, 8 / TOKEN_S, 1 / TOKEN_S, TOKEN_S, TOKEN_S, 80 / TOKEN_S),
    )
    assert stages[:4] == [Stage(None, done, 4) for done in (1, 2, 3, 4)]
    assert (stages[4], stages[-1]) == (Stage(1, 1, 72), Stage(8, 72, 72))
    assert [stage.concurrency for stage in stages[4:]] == sorted(int(stage.concurrency or 0) for stage in stages[4:])


async def test_a_bar_is_told_of_whole_percents_only() -> None:
    clock, stages = FakeTime(), list[Stage]()
    await Benchmark(echo(clock), Workload((1,), prompt_tokens=1, answer_tokens=1000), clock, stages.append).run()
    assert len(stages) == 2 * 101  # the first token, which is 0 percent, and then each from 1 to 100


@pytest.mark.parametrize(("prompt_tokens", "answer_tokens", "fits"), [(60, 4, True), (60, 5, False), (500, 4, False)])
async def test_a_workload_larger_than_the_context_is_refused(
    prompt_tokens: int, answer_tokens: int, fits: bool
) -> None:
    clock = FakeTime()
    benchmark = Benchmark(echo(clock, context_length=64), Workload((1,), prompt_tokens, answer_tokens), clock)
    if fits:
        assert await benchmark.run()
        return
    with pytest.raises(UsageError, match=f"64 tokens here.*{prompt_tokens + answer_tokens}") as caught:
        await benchmark.run()
    assert "--prompt-tokens" in caught.value.fix
    assert clock() == 0


async def test_a_backend_that_fails_is_said_to_and_nothing_runs_on() -> None:
    clock = FakeTime()
    backend = echo(clock, fails_after_tokens=2)
    with pytest.raises(UsageError, match="failed at a concurrency of 1: the echo backend") as caught:
        await Benchmark(backend, Workload((1, 8), 10, 4), clock).run()
    assert "--concurrency" in caught.value.fix
    assert backend.running == 0


async def test_cancelling_leaves_nothing_running() -> None:
    clock, began = FakeTime(), asyncio.Event()

    def watch(stage: Stage) -> None:
        if stage.concurrency == 8:
            began.set()

    backend = echo(clock)
    running = asyncio.create_task(Benchmark(backend, Workload((1, 8), 10, 1000), clock, watch).run())
    await began.wait()
    assert backend.running == 8
    running.cancel()
    await asyncio.wait([running])
    assert running.cancelled()
    assert backend.running == 0


async def test_a_real_model_computes_every_prompt_and_every_token(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    options = EngineOptions(kv_bytes=16 << 20)
    backend = await TransformersBackend.from_spec("tiny", now_ms=lambda: 0, options=options, cache_dir=tmp_path)
    stages: list[Stage] = []
    try:
        workload = Workload((1, 4), prompt_tokens=2 * REUSE_TOKENS, answer_tokens=16)
        one, four = await Benchmark(backend, workload, time.perf_counter, stages.append).run()
    finally:
        await backend.close()
    requests = 1 + one.rounds + 4 * four.rounds
    assert backend.counts.prompt_tokens == requests * workload.prompt_tokens
    assert backend.counts.cached_tokens == 0
    assert stages[-1].done_tokens == stages[-1].total_tokens == (requests - 1) * workload.answer_tokens
    assert (one.concurrency, four.concurrency) == (1, 4)
    for found in (one, four):
        assert 0 < found.first_token_median_s <= found.first_token_worst_s
        assert found.tokens_per_s_each is not None
        assert min(found.tokens_per_s, found.tokens_per_s_each, found.prefill_tokens_per_s) > 0


async def test_peak_memory_is_the_most_that_was_seen() -> None:
    sizes = iter([3, 5, 9, 4, 2])
    pauses = iter([0.0, 0.0, 0.0])
    have_looked = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if next(pauses, None) is None:
            have_looked.set()
            await asyncio.Event().wait()

    async with PeakMemory("cpu", lambda: next(sizes), sleep) as memory:
        await have_looked.wait()
    assert memory.peak == Peak(9, None)
    assert next(sizes, None) is None


async def test_the_memory_of_this_process_is_read() -> None:
    async with PeakMemory("cpu") as memory:
        pass
    assert memory.peak.process_bytes > 10 << 20
