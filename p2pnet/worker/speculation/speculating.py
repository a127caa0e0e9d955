"""Guesses for the answers of one engine: from what was said before, or with a small model, whichever wins more.

Knows nothing of chains: it is told what a pass takes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from p2pnet.worker.engine.computation import Computation
from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.engine.speculation import Guessed
from p2pnet.worker.speculation.lookup import Lookup
from p2pnet.worker.speculation.window import MAX_WINDOW, Acceptance, StepCost, best_window

RETRY_STEPS = 16
"""A model whose drafts do not pay for an answer makes one for it each so many steps: texts change."""


class Drafter(Protocol):
    """A model that makes drafts. See `draft_model.py`."""

    @property
    def draft_s(self) -> float:
        """How long one draft takes, lately."""

    def drafts(self, wanted: Sequence[Guessed]) -> list[Sequence[int]]:
        """For each answer at most so many drafts. Raises nothing that a model may raise."""

    def forget(self, job: Job) -> None: ...


@dataclass(eq=False)
class _Guesses:
    """What is known of one answer's drafts: those of the last step, and how they did. Of what is found in the text more
    is compared than is checked: that costs nothing, and says when it would pay."""

    lookup: Lookup = field(default_factory=Lookup)
    found: Acceptance = field(default_factory=Acceptance)
    drafted: Acceptance = field(default_factory=Acceptance)
    last_found: Sequence[int] = ()
    last_drafted: Sequence[int] = ()
    steps_without: int = 0


class Speculating:
    """Guesses for all answers of an engine; see Speculation. `cost` says what a pass takes."""

    def __init__(self, cost: Callable[[], StepCost], drafter: Drafter | None = None) -> None:
        self._cost = cost
        self._drafter = drafter
        self._known: dict[Job, _Guesses] = {}

    def drafts(self, step: Sequence[Guessed]) -> list[Sequence[int]]:
        """See Speculation."""
        cost, others = self._cost(), len(step) - 1
        found: list[Sequence[int]] = []
        wanted: list[tuple[int, Computation[Any], int]] = []
        for sequence, room in step:
            most = min(room, MAX_WINDOW)
            if most <= 0:
                found.append(())
                continue
            guesses = self._known.setdefault(sequence.job, _Guesses())
            guesses.last_found, guesses.last_drafted = guesses.lookup.drafts(sequence.job.ids, MAX_WINDOW), ()
            window = best_window(guesses.found.rate, cost, others, min(most, len(guesses.last_found)))
            found.append(guesses.last_found[: window.drafts])
            if self._drafter is None:
                continue
            steps = max(1, round(len(self._known) / len(step)))
            other = best_window(guesses.drafted.rate, cost, others, most, self._drafter.draft_s, steps)
            size = 1 if guesses.steps_without >= RETRY_STEPS and not window.drafts else other.drafts
            if size and (other.tokens_per_s > window.tokens_per_s or size > other.drafts):
                wanted.append((len(found) - 1, sequence, size))
            guesses.steps_without = 0 if size else guesses.steps_without + 1
        return self._with_drafter(found, wanted)

    def heard(self, job: Job, chosen: Sequence[int]) -> None:
        """See Speculation."""
        guesses = self._known.get(job)
        if guesses is None:
            return
        guesses.found = _compared(guesses.found, guesses.last_found, chosen)
        guesses.drafted = _compared(guesses.drafted, guesses.last_drafted, chosen)
        guesses.last_found = guesses.last_drafted = ()

    def forget(self, job: Job) -> None:
        """See Speculation."""
        self._known.pop(job, None)
        if self._drafter is not None:
            self._drafter.forget(job)

    def _with_drafter(
        self, found: list[Sequence[int]], wanted: Sequence[tuple[int, Computation[Any], int]]
    ) -> list[Sequence[int]]:
        """What was found, and in the place of some the drafts of the model."""
        if self._drafter is None or not wanted:
            return found
        made = self._drafter.drafts([(sequence, size) for _, sequence, size in wanted])
        for (index, sequence, _), drafts in zip(wanted, made, strict=True):
            if drafts:
                found[index] = self._known[sequence.job].last_drafted = drafts
        return found


def _compared(acceptance: Acceptance, drafts: Sequence[int], chosen: Sequence[int]) -> Acceptance:
    """After drafts were compared with what was chosen, up to the first that was wrong."""
    for draft, token_id in zip(drafts, chosen, strict=False):
        acceptance = acceptance.after(draft == token_id)
        if draft != token_id:
            break
    return acceptance
