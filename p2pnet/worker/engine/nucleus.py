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
        self._top_p = top_p
        self._least_of_k = kth_largest(scores, top_k) if 0 < top_k < len(scores) else -math.inf
        least_likely = float(scores.max()) + temperature * math.log(min_p) if min_p else -math.inf
        self.least = float(np.float32(max(self._least_of_k, least_likely)))
        """What top_k and min_p leave has this score at least."""

    def holds(self, score: float) -> bool:
        """Whether top_p leaves tokens of this score, too: the likelier ones have less than p together."""
        if self._top_p >= 1:
            return True
        likelier = self._scores > score
        return not likelier.any() or float(np.dot(self._probabilities, likelier)) < self._top_p

    @cached_property
    def _probabilities(self) -> Scores:
        """Of what top_k leaves."""
        left = torch.from_numpy(np.where(self._scores >= self._least_of_k, self._scores, -np.inf))
        return torch.softmax(left / self._temperature, dim=0).numpy()


def kth_largest(scores: Scores, k: int) -> float:
    """The score of which there are k at least as large. Of a large vocabulary only those are sorted that are as large
    as the k-th largest maximum of a block: there are k of them at least, and seldom many more."""
    maxima = block_maxima(scores)
    if k < len(maxima):
        scores = scores[np.flatnonzero(scores >= np.partition(maxima, -k)[-k])]
    return float(np.partition(scores, -k)[-k])
