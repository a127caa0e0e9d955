"""Says which models are looked up in the directory, and when. Asks nobody, and keeps no clock of its own.

What clients ask for are strangers' words: their number is bounded, and how often each costs anything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

WAITED_FOR_S = 2.0
"""A model that a request waits for is looked up this often: somebody may just have come."""

RUNNING_S = 30.0
"""One that clients ask for and that has room: those who come are needed by and by, and those who go are noticed anyway.
It is a sixth of the lifetime of a record, so that a look that fails loses nobody."""

WANTED_S = 600.0
"""A model that nobody has asked for in this time is not looked up any more. The next request looks at once."""

MAX_WANTED = 256
"""Models looked up at all, those that were asked for last: with all of them running, ten look-ups a second."""

LOOK_UP_AGAIN_S = 2.0
"""A model that the directory was just asked for is not asked for again."""

MAX_LOOKED_UP = 1_024
"""Names remembered for when they were looked up."""


class LookUps:
    """Those of one gateway. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._wanted_s: OrderedDict[str, float] = OrderedDict()
        self._looked_up_s: OrderedDict[str, float] = OrderedDict()

    def want(self, model: str, now_s: float) -> None:
        """A client asks for it."""
        self._wanted_s[model] = now_s
        self._wanted_s.move_to_end(model)
        if len(self._wanted_s) > MAX_WANTED:
            self._wanted_s.popitem(last=False)

    def note(self, model: str, now_s: float) -> None:
        """A look-up that began then has ended."""
        self._looked_up_s[model] = now_s
        self._looked_up_s.move_to_end(model)
        if len(self._looked_up_s) > MAX_LOOKED_UP:
            self._looked_up_s.popitem(last=False)

    def is_known(self, model: str, now_s: float) -> bool:
        """Whether a look-up began just now, and has ended."""
        return now_s - self._looked_up_s.get(model, float("-inf")) < LOOK_UP_AGAIN_S

    def due(self, waited_for: Collection[str], now_s: float) -> list[str]:
        """What to look up now: what somebody waits for first, and then what was looked up longest ago."""
        while self._wanted_s and now_s - next(iter(self._wanted_s.values())) > WANTED_S:
            self._wanted_s.popitem(last=False)
        models = dict.fromkeys((*waited_for, *self._wanted_s))
        due = [model for model in models if self._age_s(model, now_s) >= self._interval_s(model, waited_for)]
        return sorted(due, key=lambda model: (model not in waited_for, self._looked_up_s.get(model, float("-inf"))))

    def _age_s(self, model: str, now_s: float) -> float:
        return now_s - self._looked_up_s.get(model, float("-inf"))

    def _interval_s(self, model: str, waited_for: Collection[str]) -> float:
        return WAITED_FOR_S if model in waited_for else RUNNING_S
