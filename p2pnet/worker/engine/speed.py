"""Measures how fast an engine computes answers and prompts, in tokens per second. Knows nothing of models."""

from __future__ import annotations

from p2pnet.messages import Measure
from p2pnet.worker.speed import NowMs, StepSpeed

WINDOW_S = 0.5
"""Single steps vary too much to say anything."""

SMOOTHING = 0.3
"""Weight of the newest window: about the last three seconds of work count."""


class Speedometer:
    """Measures both speeds from every step. `now_ms` is Unix time in milliseconds."""

    def __init__(self, now_ms: NowMs) -> None:
        self._decode = StepSpeed(now_ms, WINDOW_S, SMOOTHING)
        self._prefill = StepSpeed(now_ms, WINDOW_S, SMOOTHING)

    @property
    def decode_tokens_per_s(self) -> Measure:
        """The speed of all answers together."""
        return self._decode.measure

    @property
    def prefill_tokens_per_s(self) -> Measure:
        return self._prefill.measure

    def note(self, decoded: int, prefilled: int, duration_s: float) -> None:
        """Note one step, out of which so many tokens of answers, and of prompts, came. Its time counts for both in
        full."""
        self._decode.note(decoded, duration_s)
        self._prefill.note(prefilled, duration_s)
