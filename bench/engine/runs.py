"""One contender with one workload, once: how fast it was, and how much memory it took."""

from __future__ import annotations

import gc
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil

from bench.engine.contenders import Contender
from bench.engine.jobs import ANSWER_TOKENS, Job, Served

T = TypeVar("T")


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
