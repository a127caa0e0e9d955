"""Says which tokens top_k, top_p and min_p leave. Knows nothing of noise.

Each takes of what the one before it left: k, then p of these, then what is likely enough beside the likeliest. Tokens
of equal score are in or out together: which of them a sort would put first differs between machines.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch

from p2pnet.worker.engine.scores import Scores, block_maxima


class Nucleus:
    """The tokens that are left of scores (vocabulary,) at this temperature. `top_k` 0, `top_p` 1 and `min_p` 0 leave
    all. The likeliest is always left."""

    def __init__(self, scores: Scores, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
        self._scores = scores
        self._temperature = temperature
        self._top_k, self._top_p, self._min_p = top_k, top_p, min_p
        self._least_of_k = kth_largest(scores, top_k) if 0 < top_k < len(scores) else -math.inf
        self._least_likely = float(scores.max()) + temperature * math.log(min_p) if min_p else -math.inf
        self.least = float(np.float32(max(self._least_of_k, self._least_likely)))
        """What top_k and min_p leave has this score at least."""

    def holds(self, score: float) -> bool:
        """Whether top_p leaves tokens of this score, too: the likelier ones have less than p together."""
        if self._top_p >= 1:
            return True
        likelier = self._scores > score
        return not likelier.any() or float(np.dot(self._probabilities, likelier)) < self._top_p

    def depth(self, score: float, most: float) -> float:
        """How far within what is left a token of this score is, in units of scores: negative outside, `most` at most
        either way.

        It bounds what rounding does: where no score is wrong by more than half of that, the token is on the same side.
        """
        inside = min(score - self._least_likely, self._depth_in_k(score), self._depth_in_p(score, most))
        return max(-most, min(most, inside))

    def _depth_in_k(self, score: float) -> float:
        """From the next one that would take its place, or from the last one whose place it would take."""
        if not 0 < self._top_k < len(self._scores):
            return math.inf
        return score - (self._next_of_k if score >= self._least_of_k else self._least_of_k)

    def _depth_in_p(self, score: float, most: float) -> float:
        """The shift at which the likelier ones have p together, by halving.

        Scores that are wrong by half a shift put those within the shift on the other side of this one, and move the
        logarithm of the odds of a set by shift / temperature.
        """
        if self._top_p >= 1:
            return math.inf
        near = self._scores[np.abs(self._scores - score) <= most]
        order = np.argsort(near)[::-1]
        chances = self._probabilities[np.abs(self._scores - score) <= most][order].astype(np.float64)
        falling, mass = near[order], np.concatenate([[0.0], np.cumsum(chances)])
        far = float(self._probabilities[self._scores > score + most].sum(dtype=np.float64))
        own = float(chances[np.flatnonzero(falling == np.float32(score))[0]])

        def is_left(shift: float) -> bool:
            likelier = int(np.searchsorted(-falling, shift - score, side="left"))
            others = far + float(mass[likelier]) - (own if shift > 0 else 0.0)
            return _log_odds(others) + shift / self._temperature < _log_odds(self._top_p)

        if is_left(most):
            return most
        low, high = -most, most
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if is_left(middle) else (low, middle)
        return low

    @cached_property
    def _next_of_k(self) -> float:
        return kth_largest(self._scores, self._top_k + 1)

    @cached_property
    def _probabilities(self) -> Scores:
        """Of what top_k leaves."""
        left = torch.from_numpy(np.where(self._scores >= self._least_of_k, self._scores, -np.inf))
        return torch.softmax(left / self._temperature, dim=0).numpy()


HALVINGS = 20
"""Of one logit: a millionth."""


def _log_odds(probability: float) -> float:
    if probability <= 0 or probability >= 1:
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1 - probability))


def kth_largest(scores: Scores, k: int) -> float:
    """The score of which there are k at least as large. Of a large vocabulary only those are sorted that are as large
    as the k-th largest maximum of a block: there are k of them at least, and seldom many more."""
    maxima = block_maxima(scores)
    if k < len(maxima):
        scores = scores[np.flatnonzero(scores >= np.partition(maxima, -k)[-k])]
    return float(np.partition(scores, -k)[-k])
