"""Those that are compared: each gets ready off the clock, and then serves a list of requests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from bench.engine.jobs import ANSWER_TOKENS, Job, Served
from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.loading import LoadedModel

Serve = Callable[[Sequence[Job]], list[Served]]
Contender = Callable[[], AbstractContextManager[Serve]]
"""Gets ready to serve, off the clock. The memory that this takes counts."""


def plain_generate(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Run them as one left-padded batch; the times of the first and the last token."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    first: list[float] = []

    def note(_ids: Any, scores: Any) -> Any:
        first.append(time.perf_counter())
        return scores

    model.generate(
        torch.tensor(ids, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        do_sample=False,
        max_new_tokens=ANSWER_TOKENS,
        min_new_tokens=ANSWER_TOKENS,
        pad_token_id=0,
        logits_processor=[note],
    )
    return first[0], time.perf_counter()


def one_after_the_other(model: Any, batch: int) -> Contender:
    """`generate`, on as many of the requests that wait as a batch may have."""

    @contextmanager
    def ready() -> Iterator[Serve]:
        yield serve

    def serve(jobs: Sequence[Job]) -> list[Served]:
        served: list[Served] = []
        start = time.perf_counter()
        while len(served) < len(jobs):
            following = jobs[len(served)]
            time.sleep(max(0.0, start + following.at_s - time.perf_counter()))
            now_s = time.perf_counter() - start
            waiting = [job for job in jobs[len(served) : len(served) + batch] if job.at_s <= now_s]
            first, last = plain_generate(model, [job.prompt for job in waiting])
            served += [Served(first - start - job.at_s, last - start - job.at_s) for job in waiting]
        return served

    return ready


def transformers_continuous(model: Any) -> Contender:
    @contextmanager
    def ready() -> Iterator[Serve]:
        config = GenerationConfig(do_sample=False, max_new_tokens=ANSWER_TOKENS, eos_token_id=-1, pad_token_id=0)
        manager = model.init_continuous_batching(generation_config=config)
        manager.start()
        try:
            _serve_continuously(manager, [Job(0, (5, 6, 7))])  # it makes its memory with the first request
            yield lambda jobs: _serve_continuously(manager, jobs)
        finally:
            manager.stop(block=True)
            model.set_attn_implementation("sdpa")

    return ready


def _serve_continuously(manager: Any, jobs: Sequence[Job]) -> list[Served]:
    start = time.perf_counter()
    asking = threading.Thread(target=_ask, args=(manager, jobs, start))
    asking.start()
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    while len(last) < len(jobs):
        result = manager.get_result(timeout=60)
        if result is None or result.error:
            raise RuntimeError(f"generate_batch failed: {result and result.error}")
        first.setdefault(result.request_id, time.perf_counter() - start)
        if result.is_finished():
            last[result.request_id] = time.perf_counter() - start
    asking.join()
    return [Served(first[str(i)] - job.at_s, last[str(i)] - job.at_s) for i, job in enumerate(jobs)]


def _ask(manager: Any, jobs: Sequence[Job], start: float) -> None:
    for index, job in enumerate(jobs):
        time.sleep(max(0.0, start + job.at_s - time.perf_counter()))
        manager.add_request(list(job.prompt), request_id=str(index), streaming=True)


def engine(loaded: LoadedModel) -> Contender:
    async def answer(backend: TransformersBackend, index: int, job: Job, start: float) -> Served:
        await asyncio.sleep(max(0.0, start + job.at_s - time.perf_counter()))
        request = GenerateRequest(
            str(index),
            "bench",
            TokenPrompt(job.prompt),
            sampling=Sampling(temperature=0),
            max_tokens=ANSWER_TOKENS,
            ignore_eos=True,
        )
        times = [time.perf_counter() async for event in backend.generate(request) if isinstance(event, TextDelta)]
        return Served(times[0] - start - job.at_s, times[-1] - start - job.at_s)

    async def serve_all(backend: TransformersBackend, jobs: Sequence[Job]) -> list[Served]:
        start = time.perf_counter()
        return list(await asyncio.gather(*(answer(backend, i, job, start) for i, job in enumerate(jobs))))

    @contextmanager
    def ready() -> Iterator[Serve]:
        with asyncio.Runner() as runner:
            backend = TransformersBackend(loaded, "bench", lambda: 0)
            try:
                yield lambda jobs: runner.run(serve_all(backend, jobs))
            finally:
                runner.run(backend.close())

    return ready
