"""The sampler: which token comes next is a pure function of (logits, seed, position) and the ids so far.

That purity is what lets another worker go on where this one stopped. Knows nothing of models, batches or text.

The one random number of a step is a hash of the seed and the position, not a draw from torch's generator: that one
differs between versions and devices and depends on who drew before. It goes through the inverse of the cumulative
distribution, in vocabulary order and in float64 on the CPU: the order of token ids is the same everywhere, whereas
sorting by probability would let a rounding difference between two machines swap neighbours and with them the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from p2pnet.errors import WorkerFailed
from p2pnet.messages import Sampling

GREEDY_BELOW = 1e-5
"""Dividing by a smaller temperature gains nothing over the largest logit and leaves float32's range."""

_UNIFORM_DOMAIN = b"p2pnet/sample/1"
_UNIFORM_BITS = 53
"""As many as a float64 holds exactly below 1."""


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of one step: the first 53 bits of BLAKE2b over seed and position."""
    counter = seed.to_bytes(8, "big") + position.to_bytes(8, "big")
    digest = blake2b(counter, digest_size=8, person=_UNIFORM_DOMAIN).digest()
    return (int.from_bytes(digest, "big") >> (64 - _UNIFORM_BITS)) * 2.0**-_UNIFORM_BITS


class OccurrencePenalty:
    """OpenAI's presence and frequency penalties: `logit -= presence * (count > 0) + frequency * count`.

    Counts are over the generated tokens, those from `prompt_tokens` on, as in OpenAI's API reference; transformers has
    neither penalty.
    """

    def __init__(self, presence: float, frequency: float, prompt_tokens: int) -> None:
        self.presence = presence
        self.frequency = frequency
        self.prompt_tokens = prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ids, counts = torch.unique(input_ids[0, self.prompt_tokens :], return_counts=True)
        penalised = scores.clone()
        penalised[0, ids] -= self.presence + self.frequency * counts.to(scores.dtype)
        return penalised


class Sampler:
    """Chooses the tokens of one sequence. Keeps nothing between calls: any step may be asked for, in any order."""

    def __init__(self, sampling: Sampling, prompt_tokens: int) -> None:
        self._seed = sampling.seed
        self._is_greedy = sampling.temperature < GREEDY_BELOW
        self._penalties = _penalties(sampling, prompt_tokens)
        self._warpers = LogitsProcessorList() if self._is_greedy else _warpers(sampling)

    def choose(self, logits: torch.Tensor, token_ids: Sequence[int]) -> int:
        """The id at position `len(token_ids)`, prompt included, from the logits (vocabulary,) after these ids.

        Raises WorkerFailed when the logits are not numbers.
        """
        scores = logits.detach().to("cpu", torch.float32)[None]
        if torch.isnan(scores).any() or not torch.isfinite(scores.max()):
            raise WorkerFailed("the model computed logits that are not numbers")
        if self._penalties:
            scores = self._penalties(_as_row(token_ids), scores)
        if self._is_greedy:
            return int(scores.argmax())
        scores = self._warpers(_NO_IDS, scores)
        return inverse_cdf(scores[0], uniform(self._seed, len(token_ids)))


_NO_IDS: Any = torch.empty((1, 0), dtype=torch.long)
"""The warpers' signature wants ids, which they do not read."""


def _as_row(token_ids: Sequence[int]) -> Any:
    return torch.tensor([token_ids], dtype=torch.long)


def _penalties(sampling: Sampling, prompt_tokens: int) -> LogitsProcessorList:
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chosen.append(OccurrencePenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_tokens))
    return chosen


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    """In the order of transformers' own generate: temperature, top_k, top_p, min_p."""
    chosen = LogitsProcessorList()
    if sampling.temperature != 1:
        chosen.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        chosen.append(MinPLogitsWarper(sampling.min_p))
    return chosen


def inverse_cdf(scores: torch.Tensor, uniform: float) -> int:
    """The first id at which the cumulative probability passes `uniform`, in [0, 1). Never an id of probability 0.

    There always is one: a float64 below 1, times the total, rounds to less than the total.
    """
    cumulative = torch.softmax(scores.double(), dim=-1).cumsum(dim=-1)
    return int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True))
