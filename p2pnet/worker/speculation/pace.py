"""Measures what a pass takes, by how many tokens it has: a line through the latest ones, by least squares.

Knows nothing of what is computed; who measures passes in the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2pnet.worker.speculation.window import StepCost

MEMORY = 0.95
"""What is left of a pass's weight after another one."""

PRIOR_SHARE = 1 / 16
"""Of a whole pass with one token: what a further one is thought to take before passes with more were seen."""

PRIOR_WEIGHT = 8.0
"""Of that, in squared tokens: passes that are all alike say nothing of it, and what others said fades. So what was too
slow once is tried again."""

RISE = 1.01
"""How much the least time rises with each pass: a hundred later it says nothing any more."""

UNMEASURED_S = 1.0


@dataclass(frozen=True)
class _Sums:
    """Weighted sums over passes. Replaced as a whole: one thread measures, and another one asks."""

    weight: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def after(self, tokens: int, seconds: float) -> _Sums:
        return _Sums(
            self.weight * MEMORY + 1,
            self.tokens * MEMORY + tokens,
            self.seconds * MEMORY + seconds,
            self.squares * MEMORY + tokens * tokens,
            self.products * MEMORY + tokens * seconds,
        )


class Pace:
    """How long passes take lately."""

    def __init__(self) -> None:
        self._sums = _Sums()
        self.least_s = 0.0
        """The least that one has taken lately; 0 before the first."""

    def note(self, tokens: int, seconds: float) -> None:
        """Note a pass that waited for no other of its own sender."""
        self._sums = self._sums.after(tokens, seconds)
        self.least_s = min(seconds, self.least_s * RISE) if self.least_s else seconds

    def forget(self) -> None:
        """Whoever computes is another from now on."""
        self._sums, self.least_s = _Sums(), 0.0

    @property
    def cost(self) -> StepCost:
        """What a pass takes. Before the first only how its parts compare means anything."""
        sums = self._sums
        if not sums.weight:
            return StepCost(UNMEASURED_S, UNMEASURED_S * PRIOR_SHARE)
        tokens, seconds = sums.tokens / sums.weight, sums.seconds / sums.weight
        spread = sums.squares - tokens * sums.tokens
        slope = sums.products - tokens * sums.seconds
        token_s = (slope + PRIOR_WEIGHT * PRIOR_SHARE * seconds) / (spread + PRIOR_WEIGHT)
        token_s = min(max(0.0, token_s), seconds / tokens)
        return StepCost(seconds - token_s * tokens, token_s)
