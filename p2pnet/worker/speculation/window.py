"""Decides how many drafts of an answer one pass checks: as many as make the most tokens a second, none where any loses.

Pure: knows nothing of where drafts come from, nor of clocks.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_WINDOW = 16
"""Drafts of one answer in one pass. Where two of three are right, more of them win nothing over any line."""

MEMORY = 0.95
"""What is left of a draft's weight after another one: the last twenty say how the next ones will do."""

FIRST_RATE, FIRST_WEIGHT = 0.5, 4.0
"""What is thought of drafts before any was checked, as of so many that were."""


@dataclass(frozen=True)
class StepCost:
    """How long a pass takes: `fixed_s`, round trips among it, and so much for each token."""

    fixed_s: float
    token_s: float


@dataclass(frozen=True)
class Acceptance:
    """How many of one answer's drafts were right, of those that came after right ones only. Older ones count less."""

    right: float = FIRST_RATE * FIRST_WEIGHT
    checked: float = FIRST_WEIGHT

    @property
    def rate(self) -> float:
        return self.right / self.checked

    def after(self, is_right: bool) -> Acceptance:
        return Acceptance(self.right * MEMORY + is_right, self.checked * MEMORY + 1)


@dataclass(frozen=True)
class Window:
    """How many drafts to check, and how many tokens a second all answers of the step then have together."""

    drafts: int
    tokens_per_s: float


def tokens_expected(rate: float, drafts: int) -> float:
    """Of one pass with so many drafts, each of which is right at this rate when those before it are: Leviathan et al.,
    "Fast Inference from Transformers via Speculative Decoding" (2023), equation 1."""
    return float(sum(rate**number for number in range(drafts + 1)))


def best_window(rate: float, cost: StepCost, others: int, most: int, draft_s: float = 0.0, steps: int = 1) -> Window:
    """The best window of at most `most` drafts, beside the tokens of `others` in the same pass: they wait for what
    these drafts take. `draft_s` is what it takes to make one; those of all `steps` under way are made one after the
    other. Of windows that are as good the smallest."""

    def of(drafts: int) -> Window:
        alone_s = cost.fixed_s + cost.token_s * (others + 1 + drafts) + draft_s * drafts
        seconds = max(alone_s, steps * draft_s * drafts)
        return Window(drafts, (others + tokens_expected(rate, drafts)) / seconds)

    return max(map(of, range(max(0, most) + 1)), key=lambda window: window.tokens_per_s)
