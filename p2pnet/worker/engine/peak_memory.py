"""Measures the most memory taken while something ran, by this process and on an NVIDIA GPU.

Asks the system and torch; knows nothing of what runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import psutil
import torch

INTERVAL_S = 0.02
"""A look takes microseconds, a step of a small model milliseconds."""


@dataclass(frozen=True)
class Peak:
    """The most memory, in bytes. `process` is main memory, weights included; `gpu` is None where no NVIDIA GPU
    computes."""

    process_bytes: int
    gpu_bytes: int | None


def resident_bytes() -> int:
    """The main memory that this process has now."""
    return int(psutil.Process().memory_info().rss)


class PeakMemory:
    """Watches from entering its context to leaving it."""

    def __init__(
        self,
        device: str,
        read_bytes: Callable[[], int] = resident_bytes,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`device` is the one that computes, as torch calls it."""
        self._is_on_gpu = device == "cuda"
        self._read_bytes = read_bytes
        self._sleep = sleep
        self._watching: asyncio.Task[None] | None = None
        self._process_bytes = 0

    async def __aenter__(self) -> Self:
        if self._is_on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._look()
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._watching is not None
        self._watching.cancel()
        await asyncio.wait([self._watching])
        self._look()

    @property
    def peak(self) -> Peak:
        """The most memory since entering."""
        return Peak(self._process_bytes, int(torch.cuda.max_memory_allocated()) if self._is_on_gpu else None)

    async def _watch(self) -> None:
        while True:
            await self._sleep(INTERVAL_S)
            self._look()

    def _look(self) -> None:
        self._process_bytes = max(self._process_bytes, self._read_bytes())
