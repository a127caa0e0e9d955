"""Checks that a worker's answer has no more than was asked for, and nothing else.

A worker that never ends must not fill the memory of whoever collects its answer, and whoever renders the answer may
rely on its form. Pure.
"""

from __future__ import annotations

import math

import msgspec

from p2pnet.errors import ProtocolViolation
from p2pnet.messages import (
    MAX_TOOLS,
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Prompt,
    TextDelta,
    TokenLogprob,
    TokenPrompt,
    ToolCallDelta,
)
from p2pnet.score_messages import Scored
from p2pnet.wire.margins import MarginCheck

MAX_CHARS_PER_TOKEN = 1024
"""The longest tokens in use are runs of a few hundred spaces or dashes."""

MAX_TEMPLATE_TOKENS = 1 << 14
"""What a chat template may add to a prompt, besides a token for each of its bytes: a system prompt and the markup of
the turns."""

MAX_TEMPLATE_CHARS = 1 << 16
"""What it may add to a prompt that is echoed."""

MAX_DELTAS_PER_TOKEN = 4
"""Deltas without ids, which servers elsewhere may cut as they like."""

SPARE_DELTAS = 16
"""Deltas without ids beside those: text that was held back, an empty beginning, an empty end."""


class AnswerLimits:
    """Follows one answer. Every check raises ProtocolViolation."""

    def __init__(self, request: GenerateRequest, max_tokens: int) -> None:
        """`max_tokens` is for each choice. It counts `resume_tokens`, which are not sent again, and does not count
        `resume_text`."""
        self._request = request
        left = max(0, max_tokens - len(request.resume_tokens))
        self._answers = [_Budget(left, (left + 1) * MAX_CHARS_PER_TOKEN) for _ in range(request.n)]
        self._prompts = [_prompt_budget(request.prompt) if request.echo else None for _ in range(request.n)]
        self._margins = MarginCheck(len(request.resume_tokens) if request.score_resume else 0)
        self._has_tools = isinstance(request.prompt, ChatPrompt) and bool(request.prompt.tools)

    def check(self, event: Accepted | TextDelta | Finished) -> None:
        """Check the next event, whichever it is."""
        match event:
            case TextDelta():
                self.check_delta(event)
            case Finished():
                self.check_finished(event)

    def check_scored(self, scored: Scored) -> None:
        """Check margins of tokens that the request already has. They come before all else."""
        self._margins.check_scored(scored)

    def check_delta(self, delta: TextDelta) -> None:
        """Check one more delta of the answer."""
        self._margins.check_over()
        if delta.choice >= self._request.n:
            raise ProtocolViolation(f"choice {delta.choice}, and {self._request.n} were asked for")
        if delta.is_prompt:
            budget = self._prompts[delta.choice]
            if budget is None:
                raise ProtocolViolation("an echo that was not asked for, or comes late")
        else:
            budget = self._answers[delta.choice]
            self._prompts[delta.choice] = None  # it comes first
        budget.spend(delta)
        self._check_logprobs(delta)
        self._check_calls(delta.tool_calls)

    def check_finished(self, finished: Finished) -> None:
        """Check the answer's end."""
        if len(finished.other_reasons) != self._request.n - 1:
            raise ProtocolViolation(f"{1 + len(finished.other_reasons)} reasons for {self._request.n} choices")

    def _check_logprobs(self, delta: TextDelta) -> None:
        if self._request.logprobs is None:
            if delta.logprobs:
                raise ProtocolViolation("logprobs that were not asked for")
            return
        if delta.token_ids and len(delta.logprobs) != len(delta.token_ids):
            raise ProtocolViolation(f"{len(delta.logprobs)} logprobs for {len(delta.token_ids)} tokens")
        for entry in delta.logprobs:
            _check_entry(entry, self._request.logprobs)
            if entry.logprob is None and not delta.is_prompt:
                raise ProtocolViolation("a token of the answer without its logprob")

    def _check_calls(self, pieces: tuple[ToolCallDelta, ...]) -> None:
        if pieces and not self._has_tools:
            raise ProtocolViolation("a tool call, and there are no tools")
        if any(piece.index >= MAX_TOOLS for piece in pieces):
            raise ProtocolViolation("more tool calls than anyone makes")


class _Budget:
    """How much of one text may still come."""

    def __init__(self, tokens: int, chars: int) -> None:
        self._tokens = tokens
        self._chars = chars
        self._unnumbered = MAX_DELTAS_PER_TOKEN * tokens + SPARE_DELTAS

    def spend(self, delta: TextDelta) -> None:
        self._tokens -= max(len(delta.token_ids), len(delta.logprobs))
        self._chars -= len(delta.text) + sum(map(_call_chars, delta.tool_calls))
        self._unnumbered -= not delta.token_ids
        if min(self._tokens, self._chars, self._unnumbered) < 0:
            raise ProtocolViolation("the worker sent more than it was asked for")


def _call_chars(piece: ToolCallDelta) -> int:
    return len(piece.id or "") + len(piece.name or "") + len(piece.arguments)


def _check_entry(entry: TokenLogprob, max_top: int) -> None:
    if len(entry.top) > max_top:
        raise ProtocolViolation(f"{len(entry.top)} likeliest tokens, and {max_top} were asked for")
    values = [likely.logprob for likely in entry.top] + ([] if entry.logprob is None else [entry.logprob])
    if not all(map(math.isfinite, values)):
        raise ProtocolViolation("a logprob that is no finite number")


def _prompt_budget(prompt: Prompt) -> _Budget:
    """How long the echo of a prompt can be: the prompt, and what a template puts around it. A text has at most one
    token and one character for each of its bytes; ids may stand for the longest tokens."""
    if isinstance(prompt, TokenPrompt):
        tokens = len(prompt.token_ids) + MAX_TEMPLATE_TOKENS
        return _Budget(tokens, tokens * MAX_CHARS_PER_TOKEN)
    size = len(msgspec.msgpack.encode(prompt))
    return _Budget(size + MAX_TEMPLATE_TOKENS, size + MAX_TEMPLATE_CHARS)
