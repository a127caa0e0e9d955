"""Measures how fast a worker is: moving averages and quantiles. Keeps no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Sequence

MEMORY_S = 10.0
"""A slow sample is forgotten with this time constant: after half a minute of quick ones little of it is left."""

WINDOW = 128
"""How many of the last samples quantiles are of."""


class PeakEwma:
    """A moving average that rises at once and falls slowly: who has just been slow is not trusted for a while.

    As in Twitter's Finagle (`PeakEwma`): a sample above the average replaces it, one below is blended in by its age.
    """

    def __init__(self, memory_s: float = MEMORY_S) -> None:
        self._memory_s = memory_s
        self._value: float | None = None
        self._noted_s = float("-inf")

    @property
    def value(self) -> float | None:
        return self._value

    @property
    def noted_s(self) -> float:
        """When the last sample was."""
        return self._noted_s

    def note(self, sample: float, now_s: float) -> None:
        if self._value is None or sample >= self._value:
            self._value = sample
        else:
            weight = math.exp(-max(0.0, now_s - self._noted_s) / self._memory_s)
            self._value = self._value * weight + sample * (1 - weight)
        self._noted_s = now_s


class Window:
    """The last samples of something."""

    def __init__(self, size: int = WINDOW) -> None:
        self._samples: deque[float] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._samples)

    def note(self, sample: float) -> None:
        self._samples.append(sample)

    def quantile(self, q: float) -> float | None:
        return quantile(sorted(self._samples), q)

    def mean(self) -> float | None:
        return mean(self._samples)


def quantile(ranked: Sequence[float], q: float) -> float | None:
    """The sample that a share `q` of all do not exceed, by nearest rank: one of the samples. They come sorted; None
    where there is none."""
    return ranked[max(0, math.ceil(q * len(ranked)) - 1)] if ranked else None


def mean(samples: Collection[float]) -> float | None:
    """The mean, or None where there is no sample."""
    return sum(samples) / len(samples) if samples else None
