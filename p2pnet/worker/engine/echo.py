"""Echoes a prompt: its text and, where asked for, the log-probability of each of its tokens.

Knows nothing of how the logits come about.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch

from p2pnet.messages import TextDelta, TokenLogprob
from p2pnet.wire.packing import groups, joined
from p2pnet.worker.engine.logprobs import TokenBytes, token_logprob
from p2pnet.worker.text.emission import Emitter

MAX_TOKENS_PER_DELTA = 32
"""With twenty likely tokens for each, about half of what a frame may hold."""


class PromptEcho:
    """Sends one prompt back. `logprobs` is as in SequencePlan."""

    def __init__(
        self, prompt_ids: Sequence[int], emitter: Emitter, logprobs: int | None, token_bytes: TokenBytes, choice: int
    ) -> None:
        self._prompt_ids = prompt_ids
        self._emitter = emitter
        self._logprobs = logprobs
        self._token_bytes = token_bytes
        self._choice = choice
        self._sent = 0

    @property
    def needs_logits(self) -> bool:
        """Whether it waits for the logits of more tokens."""
        return self._logprobs is not None and self._sent < len(self._prompt_ids)

    def all(self) -> tuple[TextDelta, ...]:
        """The whole echo, where no logprobs were asked for."""
        return self._deltas([None] * len(self._prompt_ids))

    def take(self, logits: torch.Tensor, start: int) -> tuple[TextDelta, ...]:
        """The next part of the echo, from the logits (rows, vocabulary) of the tokens from position `start` on.

        Each row predicts the token after its own. What was told already is not told again. Raises WorkerFailed when the
        logits are not numbers.
        """
        entries: list[TokenLogprob] = []
        if self._sent == 0:
            first = self._prompt_ids[0]
            entries.append(TokenLogprob(first, self._token_bytes(first), None))
        position = self._sent + len(entries)
        for row in logits[position - start - 1 :]:
            if position == len(self._prompt_ids):
                break
            entries.append(token_logprob(row, self._prompt_ids[position], self._logprobs or 0, self._token_bytes))
            position += 1
        return self._deltas(entries)

    def _deltas(self, entries: Sequence[TokenLogprob | None]) -> tuple[TextDelta, ...]:
        found: list[TextDelta] = []
        for entry in entries:
            delta = self._emitter.feed(self._prompt_ids[self._sent], entry)
            self._sent += 1
            found.extend([delta] if delta else [])
        if self._sent == len(self._prompt_ids) and entries:
            found.extend(self._emitter.flush())
        together = map(joined, groups(found, _token_count, MAX_TOKENS_PER_DELTA))
        return tuple(msgspec.structs.replace(delta, choice=self._choice, is_prompt=True) for delta in together)


def _token_count(delta: TextDelta) -> int:
    return len(delta.token_ids)
