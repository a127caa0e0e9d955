"""Reads an answer of OpenAI's API: server-sent events, each with JSON on one line. Pure.

A stream may end with `[DONE]`; `transformers serve` just ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.messages import GenerateRequest, TokenLogprob, ToolCallDelta, Usage
from p2pnet.worker.backends.upstream.dialect import AnswerPiece
from p2pnet.worker.backends.upstream.logprobs import Alternative, Token, token_logprobs
from p2pnet.worker.backends.upstream.openai.calls import Calls
from p2pnet.worker.backends.upstream.openai.usages import Usages
from p2pnet.worker.backends.upstream.reading import MAX_COUNT, arguments_text, decoded, finish_reason, usage_of


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """JSON as text; from some servers the object itself."""


class _ToolCall(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct):
    text: str | None = None


class _Delta(msgspec.Struct):
    content: str | list[_Part] | None = None
    """A text, or the parts of one."""
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Logprobs(msgspec.Struct):
    """A chat has `content`. A text has the three lists, except from llama.cpp, which sends `content` there too."""

    content: list[Token] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class _ChunkChoice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    stop_reason: Any = None
    """Of vLLM: the stop string or the id that ended it."""
    matched_stop: Any = None
    """The same of SGLang."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Timings(msgspec.Struct):
    """Of llama.cpp."""

    predicted_n: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_ChunkChoice | None] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk | None).decode


class OpenAIReader:
    """Reads one answer."""

    def __init__(self, request: GenerateRequest) -> None:
        self._choices = request.n
        self._stops = request.stop
        self._top = request.logprobs or 0
        self._wants_logprobs = request.logprobs is not None
        self._calls = [Calls() for _ in range(request.n)]
        """Of each choice."""
        self._usages = Usages(request.n)
        self.is_ended = False

    @property
    def usage(self) -> Usage | None:
        return self._usages.total

    def feed(self, line: bytes) -> Sequence[AnswerPiece]:
        """The pieces that one line has. Comments and the names of events have none."""
        field, _, value = line.partition(b":")
        if field == b"error":
            raise WorkerFailed("the upstream server failed in mid-answer")
        data = value.strip()
        if field != b"data" or not data:
            return ()
        if data == b"[DONE]":
            self.is_ended = True
            return ()
        chunk = decoded(_decode_chunk, data) or _Chunk()
        if chunk.error:
            raise WorkerFailed("the upstream server failed in mid-answer")
        choices = [choice for choice in chunk.choices or () if choice is not None]
        only = choices[0].index if len(choices) == 1 else None
        if chunk.usage is not None:
            self._usages.note(_usage(chunk.usage), only)
        so_far = None if only is None else _tokens_so_far(chunk)
        return [self._piece(choice, so_far) for choice in choices]

    def _piece(self, choice: _ChunkChoice, tokens_so_far: int | None) -> AnswerPiece:
        if not 0 <= choice.index < self._choices:
            raise WorkerFailed("the upstream server sent an answer that nobody asked for")
        delta = choice.delta or _Delta(content=choice.text)
        return AnswerPiece(
            choice=choice.index,
            text=_text(delta.content),
            reasoning=delta.reasoning_content or delta.reasoning or "",
            tool_calls=tuple(self._tool_call(choice.index, call) for call in delta.tool_calls or ()),
            logprobs=tuple(self._logprobs(choice.logprobs)) if choice.logprobs and self._wants_logprobs else (),
            finish=finish_reason(choice.finish_reason) if choice.finish_reason else None,
            stop=self._stop(choice),
            tokens_so_far=tokens_so_far,
        )

    def _stop(self, choice: _ChunkChoice) -> str | None:
        """The stop string that ended it, if it is one that was asked for."""
        return next((stop for stop in (choice.stop_reason, choice.matched_stop) if stop in self._stops), None)

    def _tool_call(self, choice: int, call: _ToolCall) -> ToolCallDelta:
        function = call.function or _Function()
        return self._calls[choice].take(call.index, call.id, function.name, arguments_text(function.arguments))

    def _logprobs(self, logprobs: _Logprobs) -> Iterator[TokenLogprob]:
        if logprobs.content is not None:
            return token_logprobs(logprobs.content, self._top)
        return token_logprobs(list(_columns(logprobs)), self._top)


def _tokens_so_far(chunk: _Chunk) -> int | None:
    """How many tokens the one choice of this chunk has, as far as its server says."""
    told = chunk.timings.predicted_n if chunk.timings else chunk.usage.completion_tokens if chunk.usage else None
    return told if told is not None and 0 <= told < MAX_COUNT else None


def _text(content: str | list[_Part] | None) -> str:
    return "".join(part.text or "" for part in content) if isinstance(content, list) else content or ""


def _columns(logprobs: _Logprobs) -> Iterator[Token]:
    """The tokens of a text, whose log-probabilities come in three lists."""
    tops = logprobs.top_logprobs or []
    for index, (text, logprob) in enumerate(zip(logprobs.tokens or [], logprobs.token_logprobs or [], strict=False)):
        top = (tops[index] if index < len(tops) else None) or {}
        ranked = sorted(top.items(), key=lambda item: -item[1])
        yield Token(text, logprob, top_logprobs=[Alternative(*item) for item in ranked])


def _usage(usage: _Usage) -> Usage | None:
    details = usage.prompt_tokens_details
    return usage_of(usage.prompt_tokens, usage.completion_tokens, (details.cached_tokens if details else None) or 0)
