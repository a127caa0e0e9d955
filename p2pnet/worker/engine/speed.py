"""How fast an engine computes: tokens a second while it does, of answers and of prompts. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Callable

from p2pnet.messages import Measure

WINDOW_S = 0.5
"""Single steps vary too much to say anything."""

SMOOTHING = 0.3
"""Weight of the newest window: about the last three seconds of work count."""


class Speedometer:
    """Told of every step; `now_ms` is Unix time in milliseconds."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._decode = _Rate(now_ms)
        self._prefill = _Rate(now_ms)

    @property
    def decode_tokens_per_s(self) -> Measure:
        """Of all answers together."""
        return self._decode.measure

    @property
    def prefill_tokens_per_s(self) -> Measure:
        return self._prefill.measure

    def note(self, decoded: int, prefilled: int, duration_s: float) -> None:
        """One step: so many tokens of answers, and of prompts, came out of it. It counts for both in full."""
        self._decode.note(decoded, duration_s)
        self._prefill.note(prefilled, duration_s)


class _Rate:
    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._tokens = 0
        self._duration_s = 0.0
        self.measure = Measure()

    def note(self, tokens: int, duration_s: float) -> None:
        if not tokens:
            return
        self._tokens += tokens
        self._duration_s += duration_s
        if self._duration_s >= WINDOW_S or (not self.measure.value and self._duration_s > 0):
            rate, before = self._tokens / self._duration_s, self.measure.value
            self.measure = Measure(before + SMOOTHING * (rate - before) if before else rate, self._now_ms())
            self._tokens, self._duration_s = 0, 0.0
