"""Lets all models of a machine compute in one thread, in turns, in the order in which they ask.

Two models that compute at the same time would each get half of the cores, and slow one another down by more than half.
And it has to be one thread, not one for each and a lock: every thread that torch computes in keeps a team of its own
(libgomp's), and as soon as there are more of those threads than cores, all of them sleep between two operations instead
of waiting awake. That took twice the time (measured, 2 cores). Knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Turns:
    """The turns of one machine: a turn is one step of one model. First come, first served."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="compute")

    def run(self, step: Callable[[], T]) -> T:
        """Wait for the turn, and return what the step returns, or raise what it raises. Not from within a turn."""
        return self._thread.submit(step).result()

    async def take(self, step: Callable[[], T]) -> T:
        """As `run`, from an event loop. Whoever stops waiting does not stop a step that has begun."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, step)


async def in_own_thread(act: Callable[[], T]) -> T:
    """Compute something once, such as loading a model, in a thread that ends with it. Its team of threads ends too."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="once")
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, act)
    finally:
        executor.shutdown(wait=False)
