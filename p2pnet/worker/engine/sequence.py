"""Follows one answer: the prompt, the ids so far, and what each next token means for it.

Knows nothing of models, threads, asyncio or the network.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from dataclasses import dataclass

import torch

from p2pnet.messages import FinishReason, Sampling, TextDelta, TokenLogprob, Usage
from p2pnet.score_messages import Scored
from p2pnet.worker.engine.computation import Computation
from p2pnet.worker.engine.echo import PromptEcho
from p2pnet.worker.engine.logprobs import TokenBytes, token_logprob
from p2pnet.worker.engine.sampler import Sampler
from p2pnet.worker.engine.scheduler import Job
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.emission import Emitter


@dataclass(frozen=True)
class SequencePlan:
    """What to generate, checked: all ids are in the vocabulary, and the prompt and `max_tokens` fit the context.

    `resume_ids` are the first tokens of the answer, which another worker gave. `is_of_text` says that it gave their
    text only, so that they count as the prompt's. `max_tokens` and `min_tokens` count them in any case. `logprobs` is
    how many likely tokens to name with each token; None is no logprobs.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    end_token_ids: frozenset[int]
    min_tokens: int = 0
    resume_ids: tuple[int, ...] = ()
    is_of_text: bool = False
    logprobs: int | None = None


class Sequence:
    """An answer under way. It is over once `finish_reason` is set."""

    def __init__(
        self,
        plan: SequencePlan,
        emitter: Emitter,
        token_bytes: TokenBytes,
        constraint: Constraint | None = None,
        echo: PromptEcho | None = None,
    ) -> None:
        self._plan = plan
        self._emitter = emitter
        self._token_bytes = token_bytes
        self._constraint = constraint
        self._echo = echo
        self._sampler = Sampler(plan.sampling, len(plan.prompt_ids))
        self._ids = [*plan.prompt_ids, *plan.resume_ids]
        wanted_from = 0 if echo is not None and echo.needs_logits else None
        self.job = Job(self._ids, len(plan.prompt_ids) + plan.max_tokens, wanted_from)
        self.finish_reason: FinishReason | None = None
        self.replay: Computation[Scored] | None = None
        """Scores the tokens that another worker gave, as their logits come."""
        self._resume()

    @property
    def usage(self) -> Usage:
        """The tokens so far. Every sampled token counts, also an end token and those of a stop string, as vLLM counts
        them."""
        prompt_tokens = len(self._plan.prompt_ids) + (len(self._plan.resume_ids) if self._plan.is_of_text else 0)
        return Usage(prompt_tokens, len(self._ids) - prompt_tokens, min(self.job.cached_tokens, prompt_tokens))

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        return self._plan.prompt_ids

    @property
    def has_calls(self) -> bool:
        """Whether it has begun to call a tool."""
        return self._emitter.has_calls

    @property
    def end_token_ids(self) -> frozenset[int]:
        return self._plan.end_token_ids

    @property
    def withholds(self) -> bool:
        """See Emitter."""
        return self._emitter.withholds

    @property
    def stop(self) -> str | None:
        """The stop string that has ended it, if any."""
        return self._emitter.stop

    def rows_wanted(self, count: int) -> int:
        """For how many of the next `count` tokens the logits are needed."""
        if self._echo is not None and self._echo.needs_logits:
            return count
        if self.replay is not None and self.replay.finish_reason is None:
            return self.replay.rows_wanted(count)
        return int(count == self.job.remaining)

    def take(self, logits: torch.Tensor, start: int) -> tuple[TextDelta | Scored, ...]:
        """Take the wanted logits (rows, vocabulary) of the tokens from position `start` to the last one computed.
        Returns what may be sent now.

        Raises WorkerFailed when they are not numbers.
        """
        deltas = self._echo.take(logits, start) if self._echo is not None and self._echo.needs_logits else ()
        scored = () if self.replay is None or self.replay.finish_reason else tuple(self.replay.take(logits, start))
        if self.job.remaining:
            return deltas + scored
        return deltas + scored + self.choose(logits[-1])

    def choose(self, logits: torch.Tensor) -> tuple[TextDelta, ...]:
        """Sample the next token from the logits (vocabulary,) after those so far. Returns what it lets be sent."""
        token_id = self._sampler.choose(logits, self._ids, *self._left())
        return self.follow(token_id, logits)

    def guess(self, logits: torch.Tensor, drafts: Ids[int]) -> int:
        """The id that is sampled after those so far and these, if such logits (vocabulary,) come. Changes nothing."""
        allowed, forbidden = (None, frozenset[int]()) if drafts else self._left()
        return self._sampler.choose(logits, [*self._ids, *drafts], allowed, forbidden)

    def margins(self, logits: torch.Tensor, given: Ids[int]) -> list[float]:
        """Of these ids in the place of the next token: see Sampler."""
        return self._sampler.margins(logits, self._ids, given, *self._left())

    def lead(self, logits: torch.Tensor) -> float:
        """Of what would be sampled next: see Sampler."""
        return self._sampler.lead(logits, self._ids, *self._left())

    def _left(self) -> tuple[torch.Tensor | None, frozenset[int]]:
        """What may come next, where the form says it, and what must not."""
        is_early = len(self._ids) - len(self._plan.prompt_ids) < self._plan.min_tokens
        allowed = None if self._constraint is None else self._constraint.allowed()
        return allowed, self._plan.end_token_ids if is_early else frozenset()

    def follow(self, token_id: int, logits: torch.Tensor) -> tuple[TextDelta, ...]:
        """Take the next token, whoever has chosen it. Returns what it lets be sent. Raises InvalidRequest where the
        form does not allow it."""
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self._ids.append(token_id)
        if token_id in self._plan.end_token_ids:
            return self._finish("stop")
        delta = self._emitter.feed(token_id, self._logprob(logits, token_id))
        self._look_for_end()
        deltas = (delta,) if delta else ()
        return deltas + self._finish(self.finish_reason) if self.finish_reason else deltas

    def leave(self) -> tuple[TextDelta, ...]:
        """Nothing more follows, though it is not over. Returns what was withheld."""
        return self._emitter.flush()

    def _logprob(self, logits: torch.Tensor, token_id: int) -> TokenLogprob | None:
        if self._plan.logprobs is None:
            return None
        return token_logprob(logits, token_id, self._plan.logprobs, self._token_bytes)

    def _look_for_end(self) -> None:
        if self._emitter.is_stopped or (self._constraint is not None and self._constraint.is_complete):
            self.finish_reason = "stop"
        elif len(self._ids) - len(self._plan.prompt_ids) >= self._plan.max_tokens:
            self.finish_reason = "length"

    def _finish(self, reason: FinishReason) -> tuple[TextDelta, ...]:
        deltas = self._emitter.flush()
        self.finish_reason = "tool_calls" if reason == "stop" and self._emitter.has_calls else reason
        return deltas

    def _resume(self) -> None:
        """Come to where another worker was. The answer may have been complete there, and only its end not told."""
        ids: Ids[int] = self._plan.resume_ids
        if not ids:
            return
        self._emitter.replay(ids)
        if self._constraint is not None:
            for token_id in ids:
                self._constraint.accept(token_id)
        self._look_for_end()
        if self.finish_reason:
            self._finish(self.finish_reason)
