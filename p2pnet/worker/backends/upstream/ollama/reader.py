"""Reads an answer of Ollama's API: one JSON object a line, the last with `done`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.messages import FinishReason, GenerateRequest, ToolCallDelta, Usage
from p2pnet.worker.backends.upstream.dialect import AnswerPiece
from p2pnet.worker.backends.upstream.logprobs import Token, token_logprobs
from p2pnet.worker.backends.upstream.reading import (
    arguments_text,
    begun_call,
    check_tool_call,
    decoded,
    finish_reason,
    usage_of,
)

NO_GENERATION = frozenset({"load", "unload"})
"""Reasons of what is the end of no answer: the server has done something else."""


class _Function(msgspec.Struct):
    name: str
    arguments: dict[str, Any] | str | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct):
    """One line. A chat has `message`; a text has `response` and `thinking`."""

    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    logprobs: list[Token] | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    error: Any = None


_decode_line = msgspec.json.Decoder(_Line | None).decode


class OllamaReader:
    """Reads one answer, which has one choice."""

    def __init__(self, request: GenerateRequest) -> None:
        self._top = request.logprobs
        self._calls = 0
        self.usage: Usage | None = None
        self.is_ended = False

    def feed(self, line: bytes) -> Sequence[AnswerPiece]:
        """The piece that one line is."""
        said = decoded(_decode_line, line) or _Line()
        if said.error:
            raise WorkerFailed("the upstream server failed in mid-answer")
        message = said.message or _Message(said.response, said.thinking)
        piece = AnswerPiece(
            text=message.content or "",
            reasoning=message.thinking or "",
            tool_calls=tuple(self._tool_call(call) for call in message.tool_calls or ()),
            logprobs=tuple(token_logprobs(said.logprobs or (), self._top)) if self._top is not None else (),
            finish=self._end(said) if said.done else None,
        )
        return (piece,)

    def _end(self, said: _Line) -> FinishReason:
        self.is_ended = True
        self.usage = usage_of(said.prompt_eval_count, said.eval_count)
        if said.done_reason in NO_GENERATION:
            raise WorkerFailed("the upstream server generated nothing")
        return finish_reason(said.done_reason or "")

    def _tool_call(self, call: _ToolCall) -> ToolCallDelta:
        """A call, which comes whole."""
        name, index = call.function.name, self._calls
        check_tool_call(index, call.id, name)
        self._calls += 1
        return begun_call(index, call.id, name, arguments_text(call.function.arguments) or "{}")
