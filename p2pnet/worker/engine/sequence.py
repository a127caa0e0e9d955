"""One generation: the prompt, the ids so far, the cache, and how they advance by one forward pass of the model.

Knows nothing of threads, asyncio or the network.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from transformers import DynamicCache

from p2pnet.messages import FinishReason, Sampling, TextDelta, Usage
from p2pnet.worker.engine.detokenizer import Detokenizer
from p2pnet.worker.engine.emission import Emitter
from p2pnet.worker.engine.sampler import Sampler

PREFILL_CHUNK_TOKENS = 512
"""A prompt is computed in pieces of this size, so that a cancelled request stops between two of them; smaller pieces
would leave a processor's matrix units idle."""


@dataclass(frozen=True)
class SequencePlan:
    """What to generate, checked: the prompt is in the vocabulary, and `max_tokens` more fit the context."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    end_token_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS


class Sequence:
    """A generation under way. Call `step` until `finish_reason` is set."""

    def __init__(self, model: Any, plan: SequencePlan, detokenizer: Detokenizer) -> None:
        self._model = model
        self._plan = plan
        self._ids = list(plan.prompt_ids)
        self._computed = 0
        """How many of the ids are in the cache."""
        self._cache = DynamicCache(config=model.config)
        self._forward_options = _forward_options(model)
        self._sampler = Sampler(plan.sampling, len(plan.prompt_ids))
        self._emitter = Emitter(detokenizer, plan.stop)
        self.finish_reason: FinishReason | None = None

    @property
    def usage(self) -> Usage:
        """Every sampled token counts, an end token and the tokens of a stop string too, as vLLM counts them."""
        return Usage(len(self._plan.prompt_ids), len(self._ids) - len(self._plan.prompt_ids))

    @torch.inference_mode()
    def step(self) -> tuple[TextDelta, ...]:
        """One forward pass: a piece of the prompt, or one token more. Returns what may be shown after it.

        Raises WorkerFailed when the logits are not numbers, and whatever torch raises.
        """
        logits = self._forward(self._ids[self._computed :][: self._plan.prefill_chunk_tokens])
        if self._computed < len(self._ids):
            return ()
        return self._append(self._sampler.choose(logits, self._ids))

    def _forward(self, ids: Ids[int]) -> torch.Tensor:
        """The logits (vocabulary,) after these ids."""
        row = torch.tensor([ids], dtype=torch.long, device=self._model.device)
        output = self._model(input_ids=row, past_key_values=self._cache, use_cache=True, **self._forward_options)
        self._computed += len(ids)
        logits: torch.Tensor = output.logits[0, -1]
        return logits

    def _append(self, token_id: int) -> tuple[TextDelta, ...]:
        self._ids.append(token_id)
        if token_id in self._plan.end_token_ids:
            self.finish_reason = "stop"
            return self._emitter.flush()
        delta = self._emitter.feed(token_id)
        deltas = (delta,) if delta else ()
        if self._emitter.is_stopped:
            self.finish_reason = "stop"
        elif self.usage.completion_tokens >= self._plan.max_tokens:
            self.finish_reason = "length"
        return deltas + self._emitter.flush() if self.finish_reason else deltas


def _forward_options(model: Any) -> dict[str, int]:
    """Logits of the last position only, where the model can: those of a whole prompt are large."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
