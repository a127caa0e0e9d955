"""Finds the token that wins `logit / temperature + noise`, and computes the noise of those only that can win.

That is an exact draw from the softmax (Gumbel-max; Yellott 1977), and a rounding error of the logits changes the
winner only where the two best are as near to one another as the error is large (the coupling of arXiv 2408.07978).
Knows nothing of sequences and their requests.
"""

from __future__ import annotations

import math

import numpy as np

from p2pnet.worker.engine.noise import Floats, Ids, Noise
from p2pnet.worker.engine.scores import BLOCK_IDS, Scores, block_maxima

_SLACK = 1e-5
"""By how much, relatively, a bound in float32 is lowered: far more than its rounding error, and few ids more."""


class Race:
    """The race of one step over scores (vocabulary,), not all of them minus infinity. `temperature` is above 0."""

    def __init__(self, scores: Scores, temperature: float, seed: int, position: int) -> None:
        self.scores = scores
        self.temperature = temperature
        self._noise = Noise(seed, position, len(scores))
        self._largest = block_maxima(scores).astype(np.float64)

    def winner(self, least: float = -math.inf) -> int:
        """The winner among the ids whose score is `least` or more: there must be one. Of equals the smallest id."""
        ids = self._that_can_reach(self._surely_reached(least), least)
        values = self._values(ids)
        return int(ids[values == values.max()].min())

    def score(self, token_id: int) -> float:
        return float(self.scores[token_id])

    def value(self, token_id: int) -> float:
        """An id's score / temperature + noise."""
        return float(self._values(np.array([token_id]))[0])

    def above(self, value: float) -> tuple[Ids, Floats]:
        """The ids whose value is more than this, and their values."""
        ids = self._that_can_reach(value, -math.inf)
        values = self._values(ids)
        return ids[values > value], values[values > value]

    def _surely_reached(self, least: float) -> float:
        """What the winner reaches at least: the best of the ids with the most noise of each block, which are known, and
        of the likeliest one."""
        ids = self._noise.best_ids
        if ids[-1] >= len(self.scores):
            ids = ids[:-1]
        scores = self.scores[ids].astype(np.float64)
        values = scores / self.temperature + self._noise.best[: len(ids)]
        known = values.max(where=scores >= least, initial=-np.inf)
        return max(float(known), float(self._values(self._likeliest())[0]))

    def _likeliest(self) -> Ids:
        begin = int(self._largest.argmax()) * BLOCK_IDS
        return np.array([begin + self.scores[begin : begin + BLOCK_IDS].argmax()])

    def _that_can_reach(self, value: float, least: float) -> Ids:
        """All ids whose value is at least this one, and some more."""
        bounds = self._largest / self.temperature + self._noise.best
        blocks = np.flatnonzero((bounds >= value) & (self._largest >= least))
        needed = (value - self._noise.best[blocks]) * self.temperature
        needed = np.maximum(needed - _SLACK * (np.abs(needed) + self.temperature), least).astype(np.float32)
        whole = self.scores[: len(self.scores) // BLOCK_IDS * BLOCK_IDS].reshape(-1, BLOCK_IDS)
        full = blocks[blocks < len(whole)]
        found = np.flatnonzero(whole[full] >= needed[: len(full), None])
        ids: Ids = full[found // BLOCK_IDS] * BLOCK_IDS + found % BLOCK_IDS
        if len(full) == len(blocks):
            return ids
        rest = np.arange(whole.size, len(self.scores))  # the last block, which is shorter
        return np.append(ids, rest[self.scores[rest] >= needed[-1]])

    def _values(self, ids: Ids) -> Floats:
        return self.scores[ids].astype(np.float64) / self.temperature + self._noise.of(ids)
