"""Samples the next token: a pure function of (logits, seed, position) and the ids so far.

That purity is what lets another worker go on where this one stopped. Knows nothing of models, batches or text.

The token is the one with the largest `logit / temperature + noise` (`race.py`, `noise.py`) of those that the request
leaves (`contest.py`). Two workers whose logits differ by rounding choose the same one, unless its two best are as near
to one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.generation.logits_process import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from p2pnet.errors import WorkerFailed
from p2pnet.messages import Sampling
from p2pnet.score_messages import MAX_MARGIN
from p2pnet.worker.engine.contest import Contest
from p2pnet.worker.engine.nucleus import Nucleus
from p2pnet.worker.engine.race import Race
from p2pnet.worker.engine.scores import Scores, as_scores

GREEDY_BELOW = 1e-5
"""Dividing by a smaller temperature gains nothing over the largest logit and leaves float32's range."""

SAMPLER = "gumbel-1"
"""Which rule this is: what two workers must share, beside the digest, to give the same tokens. Another rule, another
name."""


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
        self._stretch = max(sampling.repetition_penalty, 1 / sampling.repetition_penalty)
        """By how much the penalty multiplies a rounding error. Margins are in units of what the model computes: or
        whoever asks with a penalty of 100 could make an honest worker look like a liar."""

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
        left = self._left(logits, token_ids, allowed, forbidden)
        return self._contest(left, len(token_ids)).winner() if self._temperature else int(left.argmax())

    def margins(
        self,
        logits: torch.Tensor,
        token_ids: Sequence[int],
        given: Iterable[int],
        allowed: torch.Tensor | None = None,
        forbidden: Iterable[int] = (),
    ) -> list[float]:
        """By how much another id beats each of those given, where `choose` would choose: see `contest.py`. 0 where it
        is the one. Raises WorkerFailed as `choose`."""
        left = self._left(logits, token_ids, allowed, forbidden)
        contest = self._contest(left, len(token_ids)) if self._temperature else None
        best = float(left.max())

        def margin(token_id: int) -> float:
            score = float(left[token_id])
            if score == -math.inf:
                return MAX_MARGIN
            return (min(MAX_MARGIN, best - score) if contest is None else contest.margin(token_id)) / self._stretch

        return [margin(token_id) for token_id in given]

    def lead(
        self,
        logits: torch.Tensor,
        token_ids: Sequence[int],
        allowed: torch.Tensor | None = None,
        forbidden: Iterable[int] = (),
    ) -> float:
        """By how little logits must be others for `choose` to choose another id: the least margin of the others."""
        left = self._left(logits, token_ids, allowed, forbidden)
        if self._temperature:
            return self._contest(left, len(token_ids)).lead() / self._stretch
        second, best = np.partition(left, -2)[-2:]
        return min(MAX_MARGIN, float(best) - float(second)) / self._stretch

    def _contest(self, left: Scores, position: int) -> Contest:
        race = Race(left, self._temperature, self._seed, position)
        return Contest(race, Nucleus(left, self._temperature, self._top_k, self._top_p, self._min_p))

    def _left(
        self, logits: torch.Tensor, token_ids: Sequence[int], allowed: torch.Tensor | None, forbidden: Iterable[int]
    ) -> Scores:
        """The scores of the ids that bias, penalties and form leave; of the others minus infinity."""
        scores = as_scores(logits)
        if self._bias is not None:
            scores = scores.index_add(0, self._bias[0], self._bias[1])
        if self._penalties:
            scores = self._penalties(_as_row(token_ids), scores[None])[0]
        left: Scores = _restricted(scores, allowed, list(forbidden)).numpy()
        return left


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
