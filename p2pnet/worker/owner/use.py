"""Measures how much of this machine other programs use. Asks the system, and an NVIDIA card's driver where one computes
for us.

Ours are this process and all it has started. Judges nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Set

import psutil

from p2pnet.worker.owner.busy import Use

logger = logging.getLogger(__name__)

BUSY_FIELDS = ("user", "nice", "system", "irq", "softirq")
"""What of a machine's CPU time is work. Time that a hypervisor gave to others is not this owner's."""

LIST_GPU_PROCESSES = ("nvidia-smi", "pmon", "-c", "1", "-s", "u")
LISTING_TIMEOUT_S = 5.0
"""It takes a second; a driver that hangs takes for ever."""


class UseMeter:
    """Measures the use of this machine. `gpu_listing` returns what nvidia-smi prints of a GPU's processes, or None."""

    def __init__(
        self,
        now_s: Callable[[], float] = time.monotonic,
        gpu_listing: Callable[[], str | None] | None = None,
        has_gpu: Callable[[], bool] | None = None,
    ) -> None:
        self._now_s = now_s
        self._gpu_listing = gpu_listing or list_gpu_processes
        self._has_gpu = has_gpu or computes_on_gpu
        self._has_complained = False

    async def __call__(self) -> Use:
        """Measure in a thread: listing processes takes milliseconds, asking a GPU's driver a second."""
        return await asyncio.to_thread(self.measure)

    def measure(self) -> Use:
        """Raises OSError or psutil.Error where the system does not tell."""
        own = own_processes()
        cpu_s = busy_cpu_s() - sum(map(cpu_s_of, own))
        pids = {process.pid for process in own}
        return Use(self._now_s(), cpu_s, psutil.cpu_count() or 1, self._gpu_percent(pids))

    def _gpu_percent(self, own_pids: Set[int]) -> float | None:
        if not self._has_gpu():
            return None
        listing = self._gpu_listing()
        percent = None if listing is None else gpu_percent_of_others(listing, own_pids)
        if percent is None and not self._has_complained:
            self._has_complained = True
            logger.warning("nvidia-smi does not say how much other programs use the GPU: only the CPU counts as busy")
        return percent


def own_processes() -> list[psutil.Process]:
    """This process and all that it has started, directly or not."""
    this = psutil.Process(os.getpid())
    return [this, *this.children(recursive=True)]


def busy_cpu_s() -> float:
    """The CPU time for which the cores of this machine have worked."""
    times = psutil.cpu_times()
    return float(sum(getattr(times, field, 0.0) for field in BUSY_FIELDS))


def cpu_s_of(process: psutil.Process) -> float:
    """The CPU time of a process and of its children that have ended. It is 0 for a process that has just ended: its
    parent then has its time."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def computes_on_gpu() -> bool:
    """Whether torch has opened a GPU in this process. If torch was never imported, it has not."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def list_gpu_processes() -> str | None:
    """What nvidia-smi says of the processes on each GPU, or None if there is no such program or it fails."""
    try:
        done = subprocess.run(LIST_GPU_PROCESSES, capture_output=True, text=True, timeout=LISTING_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def gpu_percent_of_others(listing: str, own_pids: Set[int]) -> float | None:
    """How much of its time, in percent, a GPU works for others: of the GPUs that work for us, the one most used.

    `listing` is of `nvidia-smi pmon`: GPU, process id, type, percent and more in columns, "-" for what is not known.
    None when it does not list us, though we have opened a GPU: inside a container, for instance, it may list nobody, or
    by ids from outside, and then nothing tells the owner's use from ours.
    """
    percents: defaultdict[str, float] = defaultdict(float)
    ours: set[str] = set()
    for line in listing.splitlines():
        gpu, pid, _, percent, *_ = [*line.split(), "", "", "", ""]
        if not (gpu.isdecimal() and pid.isdecimal()):
            continue
        if int(pid) in own_pids:
            ours.add(gpu)
        elif percent.isdecimal():
            percents[gpu] += int(percent)
    return max((min(100.0, percents[gpu]) for gpu in ours), default=None)
