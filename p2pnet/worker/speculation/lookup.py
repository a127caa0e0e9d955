"""Guesses what comes next from where the same tokens came before, in prompt and answer: prompt lookup.

After Saxena, "Prompt Lookup Decoding" (2023). Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from p2pnet.worker.engine.prefixes import Ids

NGRAMS = (4, 3, 2)
"""How many tokens must be the same: more say more of what follows, and one token says too little."""


class Lookup:
    """Looks for the last tokens of one answer in what came before them. Ids are only ever added."""

    def __init__(self) -> None:
        self._buffer: Ids = np.empty(0, dtype=np.int32)
        self._length = 0

    def drafts(self, ids: Sequence[int], most: int) -> tuple[int, ...]:
        """At most so many ids that followed the last few when these came before, where they came last. Where that
        reaches the end, what was found goes on in circles."""
        known = self._taken_in(ids)
        for size in NGRAMS:
            if (found := _last_place(known, size)) is not None:
                period = len(known) - found
                return tuple(int(known[found + at % period]) for at in range(most))
        return ()

    def _taken_in(self, ids: Sequence[int]) -> Ids:
        if len(ids) > len(self._buffer):
            grown: Ids = np.empty(2 * len(ids), dtype=np.int32)
            grown[: self._length] = self._buffer[: self._length]
            self._buffer = grown
        self._buffer[self._length : len(ids)] = ids[self._length :]
        self._length = len(ids)
        return self._buffer[: self._length]


def _last_place(known: Ids, size: int) -> int | None:
    """After which of the earlier places of the last `size` ids the search goes on: the index of the id behind it."""
    if len(known) <= size:
        return None
    starts = len(known) - size  # of places that have an id behind them
    same = known[:starts] == known[-size]
    for offset in range(1, size):
        same &= known[offset : offset + starts] == known[offset - size]
    places = np.flatnonzero(same)
    return int(places[-1]) + size if len(places) else None
