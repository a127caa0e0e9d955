"""Logits as the sampler takes them: numbers in float32 on the CPU, and the largest of each block of ids."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from p2pnet.errors import WorkerFailed

Scores = npt.NDArray[np.float32]

BLOCK_IDS = 256
"""A vocabulary of 262,144 then has 1,024 blocks, and a block is sixteen of the widest vector registers. The noise is
made of blocks of this size, so it is a part of the rule (docs/protocol.md)."""


def as_scores(logits: torch.Tensor) -> torch.Tensor:
    """The logits in float32 on the CPU. Raises WorkerFailed when they are not numbers."""
    scores = logits.detach().to("cpu", torch.float32)
    if not math.isfinite(float(scores.max())):  # the maximum of anything with a NaN is NaN
        raise WorkerFailed("the model computed logits that are not numbers")
    return scores


def block_maxima(scores: Scores) -> Scores:
    """The largest score of each block; the last block may be short. By torch, which takes a quarter of numpy's time."""
    whole = len(scores) // BLOCK_IDS * BLOCK_IDS
    maxima: Scores = torch.from_numpy(scores[:whole].reshape(-1, BLOCK_IDS)).amax(dim=1).numpy()
    return maxima if whole == len(scores) else np.append(maxima, scores[whole:].max())


def next_larger(score: float) -> float:
    """The next number that a score can be."""
    return float(np.nextafter(np.float32(score), np.float32(np.inf)))
