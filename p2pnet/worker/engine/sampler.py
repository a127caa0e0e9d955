"""Samples the next token: a pure function of (logits, seed, position) and the ids so far.

That purity is what lets another worker go on where this one stopped. Knows nothing of models, batches or text.

The one random number of a step is a hash of the seed and the position, not a draw from torch's generator: that one
differs between versions and devices and depends on who drew before. It goes through the inverse of the cumulative
distribution, in vocabulary order and in float64 on the CPU: the order of token ids is the same everywhere, whereas
sorting by probability would let a rounding difference between two machines swap neighbours and with them the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

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
        self._temperature = 0.0 if sampling.temperature < GREEDY_BELOW else sampling.temperature
        self._top_k, self._top_p, self._min_p = sampling.top_k, sampling.top_p, sampling.min_p
        self._bias = _bias(sampling.logit_bias)
        self._penalties = _penalties(sampling, prompt_tokens)

    @property
    def is_plainly_greedy(self) -> bool:
        """Whether it always takes the largest of the logits as they are."""
        return not (self._temperature or self._bias or self._penalties)

    def choose(
        self,
        logits: torch.Tensor,
        token_ids: Sequence[int],
        allowed: torch.Tensor | None = None,
        forbidden: Iterable[int] = (),
    ) -> int:
        """The id at position `len(token_ids)`, prompt included, from the logits (vocabulary,) after these ids.

        `allowed` are booleans (vocabulary,): nothing else is chosen. `forbidden` ids are not chosen as long as others
        are allowed. Raises WorkerFailed when the logits are not numbers.
        """
        scores = as_scores(logits)
        if self._bias is not None:
            scores = scores.index_add(0, self._bias[0], self._bias[1])
        if self._penalties:
            scores = self._penalties(_as_row(token_ids), scores[None])[0]
        scores = _restricted(scores, allowed, list(forbidden))
        if not self._temperature:
            return int(scores.argmax())
        scores = scores / self._temperature
        return inverse_cdf(self._nucleus(scores), uniform(self._seed, len(token_ids)))

    def _nucleus(self, scores: torch.Tensor) -> torch.Tensor:
        """What top_k, top_p and min_p leave, each of what the one before it left. The rest is minus infinity."""
        if self._top_k:
            scores = at_least(scores, _kth_largest(scores, self._top_k))
        if self._top_p < 1:
            scores = at_least(scores, _nucleus_threshold(scores, self._top_p))
        if self._min_p:
            scores = at_least(scores, float(scores.max()) + math.log(self._min_p))
        return scores


def as_scores(logits: torch.Tensor) -> torch.Tensor:
    """The logits in float32 on the CPU. Raises WorkerFailed when they are not numbers."""
    scores = logits.detach().to("cpu", torch.float32)
    if not math.isfinite(float(scores.max())):  # the maximum of anything with a NaN is NaN
        raise WorkerFailed("the model computed logits that are not numbers")
    return scores


def at_least(scores: torch.Tensor, threshold: float) -> torch.Tensor:
    """The scores of at least this value. Of equals all stay or all go: which of them a sort would put first differs
    between machines."""
    return scores.masked_fill(scores < threshold, -math.inf)


def _restricted(scores: torch.Tensor, allowed: torch.Tensor | None, forbidden: list[int]) -> torch.Tensor:
    """Only the allowed ones. Raises WorkerFailed when nothing is left."""
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    if forbidden:
        without = scores.clone()
        without[forbidden] = -math.inf
        scores = without if math.isfinite(float(without.max())) else scores
    if allowed is not None and not math.isfinite(float(scores.max())):
        raise WorkerFailed("the model gives no chance to any token that the answer's form allows")
    return scores


def _kth_largest(scores: torch.Tensor, k: int) -> float:
    return float(torch.topk(scores, min(k, len(scores))).values[-1])


_FIRST_GUESS = 128
"""Most nuclei have fewer tokens, and finding the largest 128 of 150,000 costs a tenth of sorting them all."""


def _nucleus_threshold(scores: torch.Tensor, top_p: float) -> float:
    """The score of the last token of the smallest set, likeliest first, that has `top_p` of the probability."""
    total = torch.logsumexp(scores.double(), dim=0)
    size = _FIRST_GUESS
    while True:
        size = min(size, len(scores))
        largest = torch.topk(scores, size).values
        cumulative = torch.exp(largest.double() - total).cumsum(dim=0)
        inside = int(torch.searchsorted(cumulative, top_p))
        if inside < size:
            return float(largest[inside])
        if size == len(scores):
            return -math.inf
        size *= 16


def _as_row(token_ids: Sequence[int]) -> Any:
    return torch.tensor([token_ids], dtype=torch.long)


def _penalties(sampling: Sampling, prompt_tokens: int) -> LogitsProcessorList:
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(sampling.repetition_penalty)))
    if sampling.presence_penalty or sampling.frequency_penalty:
        chosen.append(OccurrencePenalty(sampling.presence_penalty, sampling.frequency_penalty, prompt_tokens))
    return chosen


def _bias(biases: Mapping[int, float]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Ids, and what is added to their logits."""
    if not biases:
        return None
    return torch.tensor(list(biases)), torch.tensor(list(biases.values()), dtype=torch.float32)


def inverse_cdf(scores: torch.Tensor, uniform: float) -> int:
    """The first id at which the cumulative probability passes `uniform`, in [0, 1). Never an id of probability 0.

    There always is one: a float64 below 1, times the total, rounds to less than the total.
    """
    candidates = torch.nonzero(scores > -math.inf)[:, 0]
    cumulative = torch.softmax(scores[candidates].double(), dim=-1).cumsum(dim=-1)
    return int(candidates[torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)])
