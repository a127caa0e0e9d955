"""How much of something bounded each caller holds, and how much more it may take. Counts only; waits for nothing.

A caller may take as much as is still free (Choudhury & Hahne 1998, dynamic thresholds): alone it gets half, one of two
greedy callers a third, and there is always something left for whoever comes next.
"""

from __future__ import annotations

from collections import Counter


def may_take(own: int, taken: int, bound: int, size: int = 1) -> bool:
    """Whether a caller that has `own` of what is `taken` may have so much more of `bound`."""
    return own + size <= bound - taken


class Shares:
    """What each caller holds of one bounded thing. Callers' names are strangers' words: nothing is kept under the name
    of one that holds nothing."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.taken = 0
        self._held: Counter[str] = Counter()

    def of(self, caller: str) -> int:
        return self._held[caller]

    def has_room(self, caller: str, size: int = 1) -> bool:
        return may_take(self._held[caller], self.taken, self.bound, size)

    def take(self, caller: str, size: int = 1) -> None:
        """Without asking whether there is room: see `has_room`."""
        self.taken += size
        self._held[caller] += size

    def give_back(self, caller: str, size: int = 1) -> None:
        self.taken -= size
        self._held[caller] -= size
        if not self._held[caller]:
            del self._held[caller]
