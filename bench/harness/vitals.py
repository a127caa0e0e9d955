"""How much memory the processes of a swarm and their p2pds have, and which of them are still those of the beginning."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import psutil

from bench.harness.swarm import Process

SAMPLE_S = 0.25
"""What takes memory and gives it back between two samples is not seen."""
MB = 1e6


class Vitals:
    """Of these processes, by name, from the moment at which it is made."""

    def __init__(self, processes: Mapping[str, Process]) -> None:
        self._processes = processes
        self._first = self._look()
        self._began_mb = {name: _mb(process) for name, process in self._first.items()}
        self._peak_mb = dict(self._began_mb)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Sample all the time, and once more at the end."""
        task = asyncio.create_task(self._sample_all_the_time())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._sample()

    @property
    def growth_mb(self) -> dict[str, float]:
        """By how much each has grown at its largest."""
        return {name: peak - self._began_mb[name] for name, peak in self._peak_mb.items()}

    @property
    def dead(self) -> tuple[str, ...]:
        """Those that are gone, or are others by now: a p2pd that was started again counts."""
        return tuple(name for name, process in self._first.items() if not _is_alive(process))

    def _look(self) -> dict[str, psutil.Process]:
        found = {}
        for name, process in self._processes.items():
            found[name] = psutil.Process(process.pid)
            daemon = process.daemon_pid
            assert daemon is not None, f"{name} has no p2pd"
            found[f"the p2pd of {name}"] = psutil.Process(daemon)
        return found

    async def _sample_all_the_time(self) -> None:
        while True:
            self._sample()
            await asyncio.sleep(SAMPLE_S)

    def _sample(self) -> None:
        for name, process in self._first.items():
            self._peak_mb[name] = max(self._peak_mb[name], _mb(process))


def _mb(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(process.memory_info().rss) / MB
    return 0.0


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    return False
