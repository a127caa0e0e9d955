"""Averages tokens per second. Clocks are passed in; knows nothing of models or requests.

There are two kinds of average. Whoever computes knows how long each step took: `StepSpeed`. Whoever only sees tokens
come out of several streams counts the time in which at least one of them computes: `StreamSpeed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from p2pnet.messages import Measure

NowMs = Callable[[], int]
"""Unix time in milliseconds."""


def averaged(average: Measure, value: float, now_ms: int, smoothing: float) -> Measure:
    """The moving average with one more value, whose weight is `smoothing`. The first value stands as it is."""
    is_first = not average.sampled_ms
    return Measure(value if is_first else average.value + smoothing * (value - average.value), now_ms)


class StepSpeed:
    """Averages tokens per second over steps whose duration is known. `smoothing` is the weight of the newest window,
    which is at least `window_s` seconds of work. The first step counts at once."""

    def __init__(self, now_ms: NowMs, window_s: float, smoothing: float) -> None:
        self._now_ms = now_ms
        self._window_s = window_s
        self._smoothing = smoothing
        self._tokens = 0
        self._duration_s = 0.0
        self.measure = Measure()

    def note(self, tokens: int, duration_s: float) -> None:
        """Note one step. A step without tokens says nothing."""
        if not tokens:
            return
        self._tokens += tokens
        self._duration_s += duration_s
        is_first = not self.measure.sampled_ms
        if self._duration_s > 0 and (is_first or self._duration_s >= self._window_s):
            speed = self._tokens / self._duration_s
            self.measure = averaged(self.measure, speed, self._now_ms(), self._smoothing)
            self._tokens, self._duration_s = 0, 0.0


class StreamSpeed:
    """Averages tokens per second over all streams together, in the time in which at least one of them computes.

    Both sums fade with the time that is computed, so that what is recent counts most: tokens that came `memory_s`
    seconds of computing ago weigh a third of those that come now. Nothing is said before `min_s` seconds have been
    computed.
    """

    def __init__(self, now_s: Callable[[], float], now_ms: NowMs, memory_s: float, min_s: float) -> None:
        self._now_s = now_s
        self._now_ms = now_ms
        self._memory_s = memory_s
        self._min_s = min_s
        self._streams = 0
        self._updated_s = 0.0
        self._tokens = 0.0
        self._computed_s = 0.0
        self.measure = Measure()

    def begin(self) -> None:
        """Note that one more stream computes. A stream does so from its first token on: the wait for that is not
        decoding."""
        self._advance()
        self._streams += 1

    def end(self) -> None:
        """Note that one stream less computes."""
        self._advance()
        self._streams -= 1

    def note(self, tokens: int) -> None:
        """Note that so many tokens have come since the last ones."""
        self._advance()
        self._tokens += tokens
        if tokens and self._computed_s >= self._min_s:
            self.measure = Measure(self._tokens / self._computed_s, self._now_ms())

    def _advance(self) -> None:
        now_s = self._now_s()
        if self._streams:
            passed_s = now_s - self._updated_s
            fading = math.exp(-passed_s / self._memory_s)
            self._tokens *= fading
            self._computed_s = self._computed_s * fading + passed_s
        self._updated_s = now_s
