"""How fast the engine computes, beside `generate`, a static batch and transformers' own continuous batching.

    python -m bench.engine [--json [FILE]] [--rounds N] [--device cuda --dtype bfloat16]

All four run the same checkpoint (a Llama of 135 million random parameters) on the same prompts, in turns, in one
process: a busy machine slows all of them. Three workloads: one request at a time, eight at the same moment, and
requests that arrive at random (Poisson). Every answer has the same number of tokens; ends are ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from p2pnet.messages import GenerateRequest, Sampling, TextDelta, TokenPrompt
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import LoadedModel, find_folder, load_model

ONE, EIGHT, POISSON = "one", "eight", "Poisson"
SEQUENTIAL, STATIC, CONTINUOUS, OURS = "generate", "static batch", "generate_batch", "p2pnet"
CONCURRENCY = 8
ANSWER_TOKENS = 64
PROMPT_TOKENS = (32, 64, 96, 128)
POISSON_REQUESTS = 12
POISSON_LOAD = 1.5
"""Requests arrive this much faster than `generate` alone can serve them."""

AIM_OVER_SEQUENTIAL, AIM_OVER_CONTINUOUS = 4.5, 1.2


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


T = TypeVar("T")

Serve = Callable[[Sequence[Job]], list[Served]]
Contender = Callable[[], AbstractContextManager[Serve]]
"""Gets ready to serve, off the clock. The memory that this takes counts."""


@dataclass(frozen=True)
class Run:
    """One contender with one workload, once."""

    contender: str
    workload: str
    tokens_per_s: float
    median_first_s: float
    median_last_s: float
    peak_mb: float
    """Most that the process's memory grew meanwhile."""


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


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The one entry is, afterwards, by how many MB the process had grown at most."""
    process, found, is_over = psutil.Process(), [0.0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not is_over.wait(0.02):
            found[0] = max(found[0], (process.memory_info().rss - before) / 1e6)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        is_over.set()
        watcher.join()


def alone(act: Callable[[], T]) -> T:
    """In a thread that ends with it: whoever computes in one thread beside the idle team of another (libgomp's) takes
    twice as long, and nobody here is to be slowed by the one before."""
    gc.collect()  # an engine's thread ends with the last reference to it
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(act).result()


def measure(name: str, workload: str, contender: Contender, jobs: Sequence[Job]) -> Run:
    def serve() -> list[Served]:
        with contender() as ready:
            return ready(jobs)

    with peak_memory() as peak:
        served = alone(serve)
    wall_s = max(job.at_s + one.last_s for job, one in zip(jobs, served, strict=True))
    return Run(
        name,
        workload,
        len(jobs) * ANSWER_TOKENS / wall_s,
        statistics.median(one.first_s for one in served),
        statistics.median(one.last_s for one in served),
        peak[0],
    )


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


def save_checkpoint(folder: Path) -> None:
    """SmolLM's shape, with random weights and the bundled tokenizer, which knows fewer ids."""
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(find_folder("tiny")).save_pretrained(folder)


def compare(
    plain: LoadedModel, loaded: LoadedModel, rounds: int, workloads: Sequence[str], progress: Progress
) -> list[Run]:
    """`plain` is for the others: the engine changes the layers of the model that it runs."""
    model = plain.model
    model.generation_config.eos_token_id = None
    contenders: dict[str, Contender] = {
        SEQUENTIAL: one_after_the_other(model, 1),
        STATIC: one_after_the_other(model, CONCURRENCY),
        CONTINUOUS: transformers_continuous(model),
        OURS: engine(loaded),
    }

    def run(name: str, workload: str, jobs: Sequence[Job]) -> Run:
        progress.update(task, description=f"{workload}: {name}", advance=1)
        return measure(name, workload, contenders[name], jobs)

    task = progress.add_task("warming up", total=None)
    for name in contenders:
        run(name, "warm-up", [Job(0, prompt) for prompt in prompts(2, 99)])
    runs = []
    for turn in range(rounds):
        at_once = [Job(0, prompt) for prompt in prompts(CONCURRENCY, turn)]
        first = run(SEQUENTIAL, ONE, at_once[:1])
        jobs = {
            ONE: at_once[:1],
            EIGHT: at_once,
            POISSON: poisson(POISSON_REQUESTS, POISSON_LOAD * first.tokens_per_s / ANSWER_TOKENS, turn),
        }
        runs += [run(name, workload, jobs[workload]) for workload in workloads for name in contenders]
    return runs


def ratio(runs: Sequence[Run], workload: str, measured: str, other: str) -> list[float]:
    """Ours to another contender's, round by round."""
    ours = [getattr(run, measured) for run in runs if (run.contender, run.workload) == (OURS, workload)]
    theirs = [getattr(run, measured) for run in runs if (run.contender, run.workload) == (other, workload)]
    return [one / two for one, two in zip(ours, theirs, strict=True)]


def show(runs: Sequence[Run], console: Console) -> None:
    for workload in (ONE, EIGHT, POISSON):
        table = Table("", title=f"{workload}, {ANSWER_TOKENS} tokens each, median of rounds (least..most)")
        for column in ("tokens/s", "first token s", "last token s", "memory grown by MB"):
            table.add_column(column, justify="right")
        for name in (SEQUENTIAL, STATIC, CONTINUOUS, OURS):
            found = [run for run in runs if (run.contender, run.workload) == (name, workload)]
            if found:
                table.add_row(
                    name,
                    _spread([run.tokens_per_s for run in found], ".1f"),
                    _spread([run.median_first_s for run in found], ".2f"),
                    _spread([run.median_last_s for run in found], ".2f"),
                    _spread([run.peak_mb for run in found], ".0f"),
                )
        console.print(table)
    for workload, other, aim in (
        (EIGHT, SEQUENTIAL, AIM_OVER_SEQUENTIAL),
        (EIGHT, CONTINUOUS, AIM_OVER_CONTINUOUS),
        (EIGHT, STATIC, 1.0),
        (ONE, SEQUENTIAL, 1.0),
    ):
        if found := ratio(runs, workload, "tokens_per_s", other):
            met = "met" if statistics.median(found) >= aim else "not met"
            console.print(
                f"{workload}: tokens/s {_spread(found, '.2f')} times those of {other}; aim at least {aim}: {met}"
            )
    for other in (SEQUENTIAL, CONTINUOUS):
        for measured in ("median_first_s", "median_last_s"):
            if found := ratio(runs, POISSON, measured, other):
                met = "met" if statistics.median(found) < 1 else "not met"
                console.print(
                    f"{POISSON}: {measured} {_spread(found, '.2f')} times that of {other}; aim below 1: {met}"
                )


def _spread(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", nargs="?", const="-", help="write the figures as JSON, to a file or to the output")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", nargs="+", default=[ONE, EIGHT, POISSON], choices=[ONE, EIGHT, POISSON])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    console = Console(stderr=arguments.json == "-", width=150)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True), transient=True) as progress:
        folder = Path(name)
        alone(lambda: save_checkpoint(folder))
        plain, ours = (
            alone(lambda: load_model(folder, arguments.device, arguments.dtype, HashCache(folder))) for _ in range(2)
        )
        runs = compare(plain, ours, arguments.rounds, arguments.workloads, progress)
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.threads} threads"
    console.print(f"{where}, {ours.dtype}, load average {load_before:.1f} -> {os.getloadavg()[0]:.1f}")
    show(runs, console)
    if arguments.json:
        text = json.dumps([asdict(run) for run in runs], indent=1)
        print(text) if arguments.json == "-" else Path(arguments.json).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
