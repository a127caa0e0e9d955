"""How fast an upstream decodes, over all that it answers at the same time. The time is passed in."""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.messages import Measure

WINDOW_S = 1.0
"""Speed is taken over at least this long; shorter, it is noise."""

SMOOTHING = 0.2
"""Weight of the newest window in the moving average."""


class DecodeSpeed:
    """Tokens per second while at least one answer is arriving. `begin` and `end` each answer, `count` its tokens."""

    def __init__(self, clock_s: Callable[[], float], now_ms: Callable[[], int]) -> None:
        self._clock_s = clock_s
        self._now_ms = now_ms
        self._answers = 0
        self._tokens = 0
        self._busy_s = 0.0
        self._since_s = 0.0
        self.measure = Measure()

    def begin(self) -> None:
        """From an answer's first token on: the wait for it is not decoding."""
        if not self._answers:
            self._since_s = self._clock_s()
        self._answers += 1

    def count(self, tokens: int) -> None:
        self._tokens += tokens
        self._fold()

    def end(self) -> None:
        self._fold()
        self._answers -= 1

    def _fold(self) -> None:
        now_s = self._clock_s()
        self._busy_s += now_s - self._since_s
        self._since_s = now_s
        if self._busy_s < WINDOW_S:
            return
        speed = self._tokens / self._busy_s
        before = self.measure
        value = before.value + SMOOTHING * (speed - before.value) if before.sampled_ms else speed
        self.measure = Measure(value, self._now_ms())
        self._tokens, self._busy_s = 0, 0.0
