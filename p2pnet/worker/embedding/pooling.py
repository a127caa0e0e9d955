"""Makes one vector of a text out of its tokens' vectors: pooling, dense layers, normalizing. In float32.

As sentence-transformers does it (`sentence_transformers.models.Pooling`). Knows nothing of models or of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pool(hidden: Tensor, lengths: Tensor, modes: Sequence[str]) -> Tensor:
    """One vector for each text, with one part for each mode.

    `hidden` is (texts, tokens, width), padded on the right; `lengths` says how many tokens are real, at least one.
    Returns float32, (texts, len(modes) * width).
    """
    hidden = hidden.float()
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    is_real = (positions < lengths[:, None])[:, :, None]
    return torch.cat([_POOLS[mode](hidden, lengths, is_real) for mode in modes], dim=-1)


def shorten(vectors: Tensor, dimensions: int) -> Tensor:
    """The first dimensions, scaled to length one again. Some models are trained to put the most important ones first
    (https://arxiv.org/abs/2205.13147)."""
    return normalize(vectors[..., :dimensions], dim=-1)


def _first(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    return hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]


def _max(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    return hidden.masked_fill(~is_real, float("-inf")).amax(dim=1)


def _sum(hidden: Tensor, is_real: Tensor) -> Tensor:
    return hidden.masked_fill(~is_real, 0).sum(dim=1)


def _mean(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    return _sum(hidden, is_real) / lengths[:, None]


def _mean_sqrt_length(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    return _sum(hidden, is_real) / lengths[:, None].sqrt()


def _weighted_mean(hidden: Tensor, lengths: Tensor, is_real: Tensor) -> Tensor:
    """A mean in which each token weighs as much as its position, so that later ones weigh more
    (https://arxiv.org/abs/2202.08904)."""
    weights = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)
    total = lengths * (lengths + 1) / 2
    return _sum(hidden * weights[None, :, None], is_real) / total[:, None]


_POOLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_length,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
