"""Decides when an owner counts as busy, from samples of what other programs use. Pure: measures nothing, knows no
clock.

It says busy soon and quiet late, so that a worker does not come and go with each page that a browser loads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

SAMPLE_INTERVAL_S = 5.0
WINDOW_S = 15.0
"""Over which use is averaged: a program that starts, or a page that loads, is over by then."""

QUIET_SHARE = 0.75
"""Quiet is under this share of the threshold: use that stays close to it must not switch to and fro."""

QUIET_S = 60.0
"""For how long it must be quiet: who stops to think is not gone."""


@dataclass(frozen=True)
class Use:
    """What other programs have used, at one moment."""

    at_s: float
    """A monotonic clock's."""
    cpu_s: float
    """CPU time of all cores together, since some beginning: only differences mean something."""
    cores: int
    gpu_percent: float | None = None
    """Of the GPU that computes for us, or of the most used of several; None where none does, or it cannot be known."""


class BusyJudge:
    """Says whether the owner is busy: whether other programs use more than `threshold_percent` of all CPU cores, or of
    the GPU."""

    def __init__(self, threshold_percent: float) -> None:
        self.threshold_percent = threshold_percent
        self.quiet_percent = threshold_percent * QUIET_SHARE
        self.is_busy = False
        self.percent = 0.0
        """What was last seen, on average over the window."""
        self._samples: deque[Use] = deque()
        self._quiet_since_s: float | None = None

    def add(self, use: Use) -> bool:
        """Consider one more sample, in order of time. Returns whether the owner is busy."""
        self._samples.append(use)
        while len(self._samples) > 2 and use.at_s - self._samples[1].at_s >= WINDOW_S:
            self._samples.popleft()
        if use.at_s - self._samples[0].at_s >= WINDOW_S:
            self.percent = average_percent(self._samples)
            self.is_busy = self._is_still_busy(use.at_s) if self.is_busy else self.percent > self.threshold_percent
        return self.is_busy

    def _is_still_busy(self, now_s: float) -> bool:
        if self.percent >= self.quiet_percent:
            self._quiet_since_s = None
            return True
        if self._quiet_since_s is None:
            self._quiet_since_s = now_s
        if now_s - self._quiet_since_s < QUIET_S:
            return True
        self._quiet_since_s = None
        return False


def average_percent(samples: Sequence[Use]) -> float:
    """The use of all CPU cores or of the GPU, whichever is higher, between the first and the last sample."""
    first, last = samples[0], samples[-1]
    cpu = 100 * max(0.0, last.cpu_s - first.cpu_s) / ((last.at_s - first.at_s) * last.cores)
    gpus = [use.gpu_percent for use in samples if use.gpu_percent is not None]
    return max(cpu, sum(gpus) / len(gpus) if gpus else 0.0)
