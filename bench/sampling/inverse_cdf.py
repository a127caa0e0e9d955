"""The rule by which tokens were chosen before `gumbel-1`: one uniform number through the inverse of the cumulative
distribution, in the order of ids. A rival for the benchmarks beside it, and used nowhere else."""

from __future__ import annotations

import math
from hashlib import blake2b

import torch

from p2pnet.messages import Sampling

_FIRST_GUESS = 128


def inverse_cdf(logits: torch.Tensor, sampling: Sampling, position: int) -> int:
    """The id at this position, of logits (vocabulary,) in float32. Temperature, top_k, top_p and min_p only."""
    scores = logits / sampling.temperature
    if sampling.top_k:
        scores = _at_least(scores, float(torch.topk(scores, sampling.top_k).values[-1]))
    if sampling.top_p < 1:
        scores = _at_least(scores, _nucleus_threshold(scores, sampling.top_p))
    if sampling.min_p:
        scores = _at_least(scores, float(scores.max()) + math.log(sampling.min_p))
    candidates = torch.nonzero(scores > -math.inf)[:, 0]
    cumulative = torch.softmax(scores[candidates].double(), dim=-1).cumsum(dim=-1)
    drawn = _uniform(sampling.seed, position) * cumulative[-1]
    return int(candidates[torch.searchsorted(cumulative, drawn, right=True)])


def _uniform(seed: int, position: int) -> float:
    counter = seed.to_bytes(8, "big") + position.to_bytes(8, "big")
    digest = blake2b(counter, digest_size=8, person=b"p2pnet/sample/1").digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _at_least(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    return scores.masked_fill(scores < threshold, -math.inf)


def _nucleus_threshold(scores: torch.Tensor, top_p: float) -> float:
    total = torch.logsumexp(scores.double(), dim=0)
    size = _FIRST_GUESS
    while True:
        size = min(size, len(scores))
        largest = torch.topk(scores, size).values
        inside = int(torch.searchsorted(torch.exp(largest.double() - total).cumsum(dim=0), top_p))
        if inside < size:
            return float(largest[inside])
        if size == len(scores):
            return -math.inf
        size *= 16
