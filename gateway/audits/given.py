"""Gathers what one worker gives of one answer, and makes the request to look at it. Knows nothing of who looks."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from uuid import uuid4

import msgspec

from gateway.peers.worker import Worker
from p2pnet.messages import Finished, FinishReason, GenerateRequest, TextDelta, TokenPrompt, choice_seed
from p2pnet.records import ModelCard, ModelTask
from p2pnet.score_messages import ScoreRequest, text_hash

MAX_POSITIONS = 1_024
"""Tokens of one answer that are looked at: a window that is drawn when the answer is over, so that nobody knows
which. It is of whole deltas, since what one says is known of all its ids together, so it may be longer by one."""

MAX_PROMPT_BYTES = 1 << 18
"""Some 60,000 tokens. To read a longer prompt again costs more than it shows, and the answers that wait to be looked at
must not fill memory."""


PROMPT_BYTES_PER_TOKEN = 4
"""In most languages and tokenizers, roughly. How many tokens the worker says that its prompt has is not asked here: who
says too many would be looked at less."""


class Given:
    """One worker's part of an answer to a request for one or several: of several it is one, drawn beforehand."""

    def __init__(self, request: GenerateRequest, worker: Worker, card: ModelCard, choice: int = 0) -> None:
        self.worker = worker
        self.card = card
        self._request = request
        self._choice = choice
        self._deltas: list[TextDelta] = []
        self._reason: FinishReason | None = None
        self._stop: str | None = None
        self._limit: int | None = None
        self.prompt_tokens: int | None = None
        """How many the worker says that the prompt has, once it has ended."""
        self.is_taken = False
        """Whether somebody has begun to look at it: it counts once."""

    @property
    def key(self) -> ModelTask:
        return self.card.key

    @property
    def has_end(self) -> bool:
        """Whether the worker said that this was all."""
        return self._reason is not None

    @property
    def answer_part(self) -> float:
        """How much of what a look reads is the answer, roughly; more than 0, at most 1."""
        prompt = self._request.prompt
        if isinstance(prompt, TokenPrompt):
            before = len(prompt.token_ids)
        else:
            before = len(_prompt_bytes(self._request)) // PROMPT_BYTES_PER_TOKEN
        own = 1 + sum(len(delta.token_ids) for delta in self._deltas)
        return own / (before + len(self._request.resume_tokens) + own)

    def note(self, delta: TextDelta) -> None:
        if delta.choice == self._choice and not delta.is_prompt:
            self._deltas.append(TextDelta(delta.text, delta.token_ids, tool_calls=delta.tool_calls))

    def note_end(self, finished: Finished) -> None:
        """It is complete. Which stop string has ended it is told of the first answer only: of others that may have been
        one, the end is not looked at."""
        reasons = (finished.reason, *finished.other_reasons)
        reason = reasons[self._choice] if self._choice < len(reasons) else None
        self._stop = finished.stop if self._choice == 0 else None
        is_unsure = self._choice > 0 and reason == "stop" and bool(self._request.stop)
        self._reason = None if is_unsure else reason
        self.prompt_tokens = finished.usage.prompt_tokens
        if reason == "length":
            self._limit = self._most_tokens(self.prompt_tokens)

    def _most_tokens(self, prompt_tokens: int) -> int | None:
        """How many tokens it was to be at most: an answer that ends at a limit has so many. Where the request leaves
        that to the context, it is what this worker announces; an auditor may have another."""
        request, room = self._request, max(1, self.card.context_length - prompt_tokens)
        if request.max_tokens is None:
            return room
        return min(request.max_tokens, room) if request.clamp_max_tokens else request.max_tokens

    def to_score(self, rng: random.Random) -> ScoreRequest | None:
        """What is asked of an auditor; None where there is nothing to look at. It says neither whose answer it is nor
        under which id it was asked for."""
        before, window, is_to_end = self._window(rng)
        reason, stop = (self._reason, self._stop) if is_to_end else (None, None)
        while window and reason is None and not window[-1].token_ids:
            window = window[:-1]  # what is said after the last token is known of answers that have ended
        ids = _ids(window)
        if not ids and reason is None:
            return None
        request, is_at_limit = self._request, reason == "length"
        seed = choice_seed(request.sampling.seed, self._choice)
        alone = msgspec.structs.replace(
            request,
            request_id=uuid4().hex,
            sampling=msgspec.structs.replace(request.sampling, seed=seed),
            n=1,
            echo=False,
            logprobs=None,
            score_resume=False,
            digest=self.card.digest,
            sampler=self.card.sampler,
            resume_tokens=(*request.resume_tokens, *_ids(before)),
            max_tokens=self._limit if is_at_limit else request.max_tokens,
            clamp_max_tokens=request.clamp_max_tokens and not is_at_limit,
        )
        return ScoreRequest(alone, ids, reason, stop, text_hash(window))

    def _window(self, rng: random.Random) -> tuple[Sequence[TextDelta], Sequence[TextDelta], bool]:
        """What came before the window, the window, and whether nothing comes after it."""
        ends = list(accumulate(len(delta.token_ids) for delta in self._deltas))
        tokens = ends[-1] if ends else 0
        if tokens <= MAX_POSITIONS:
            return (), self._deltas, True
        first = bisect_right(ends, rng.randint(0, tokens - MAX_POSITIONS))
        last = bisect_left(ends, ends[first] - len(self._deltas[first].token_ids) + MAX_POSITIONS)
        is_to_end = ends[last] == tokens
        return self._deltas[:first], self._deltas[first : None if is_to_end else last + 1], is_to_end


def _ids(deltas: Sequence[TextDelta]) -> tuple[int, ...]:
    return tuple(token_id for delta in deltas for token_id in delta.token_ids)


def can_be_scored(request: GenerateRequest, card: ModelCard) -> bool:
    """Whether an answer of this worker to it says anything to another one: not of a server elsewhere, which names no
    ids and no sampler, nor what goes on after a text."""
    return bool(card.sampler) and not request.resume_text and len(_prompt_bytes(request)) <= MAX_PROMPT_BYTES


def _prompt_bytes(request: GenerateRequest) -> bytes:
    return msgspec.msgpack.encode(request.prompt)


def is_unverifiable(card: ModelCard) -> bool:
    """Whether nobody can say of its answers that they come from what it claims to run."""
    return card.task == "generate" and not card.sampler
