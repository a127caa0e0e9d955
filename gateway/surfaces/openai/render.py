"""Renders generations as the JSON and SSE of chat and completions. Pure: no clock, no ids of its own, no I/O.

What is the same in every chunk of a stream is rendered once; of a plain delta only the text is encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.http import sse
from gateway.http.collected import Generated, GeneratedChoice
from gateway.http.failures import Failure
from gateway.http.one_line import encode_line
from gateway.http.replies import AnswerEvent, waiting_comment
from gateway.http.thoughts import Thought
from gateway.interface import Waiting
from gateway.surfaces.openai.documents import render_error, usage_document
from gateway.surfaces.openai.logprobs import TokenOffsets, chat_logprobs, completion_logprobs
from p2pnet.messages import Accepted, Finished, FinishReason, TextDelta, ToolCall, ToolCallDelta


@dataclass(frozen=True)
class ResponseHead:
    """What every document and chunk of one response carries."""

    id: str
    created_s: int
    model: str


@dataclass(frozen=True)
class Dialect:
    """How chat and completions differ. `opening` is the body of a choice's first chunk, where there is one."""

    object: str
    chunk_object: str
    opening: bytes | None
    before_text: bytes
    after_text: bytes
    closing: bytes


CHAT = Dialect(
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    opening=b'"delta":{"role":"assistant","content":""}',
    before_text=b'"delta":{"content":',
    after_text=b"}",
    closing=b'"delta":{}',
)
COMPLETION = Dialect(
    object="text_completion",
    chunk_object="text_completion",
    opening=None,
    before_text=b'"text":',
    after_text=b"",
    closing=b'"text":""',
)

_OPEN_CHOICE = b',"logprobs":null,"finish_reason":null}]'


class SseRenderer:
    """Renders the chunks of one streamed response, in order. `choices` is how many answers it has."""

    media_type = sse.MEDIA_TYPE

    def __init__(self, dialect: Dialect, head: ResponseHead, with_usage: bool, choices: int = 1) -> None:
        self._dialect = dialect
        self._head = head
        self._choices = choices
        self._offsets = [TokenOffsets() for _ in range(choices)]
        self._after_choices = (b',"usage":null' if with_usage else b"") + b"}\n\n"
        self._with_usage = with_usage
        self._is_opened = False
        self.shows_thoughts = dialect is CHAT
        self._set_fingerprint(None)

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        return sse.comment(waiting_comment(waiting))

    def render(self, events: Sequence[AnswerEvent]) -> bytes:
        parts: list[bytes] = []
        for event in events:
            if isinstance(event, TextDelta):
                if event.logprobs or event.tool_calls:
                    parts.append(self._rich(event))
                elif event.text:
                    parts += (self._before_text(event.choice), encode_line(event.text), self._after_text)
            elif isinstance(event, Accepted):
                parts.append(self._open(event))
            elif isinstance(event, Thought):
                parts.append(self._thought(event))
            else:
                parts.append(self._close(event))
        return b"".join(parts)

    def render_failure(self, failure: Failure) -> bytes:
        return sse.nameless(render_error(failure))

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        return sse.with_receipts(end, document)

    def _set_fingerprint(self, fingerprint: str | None) -> None:
        document = {
            "id": self._head.id,
            "object": self._dialect.chunk_object,
            "created": self._head.created_s,
            "model": self._head.model,
            "system_fingerprint": fingerprint,
        }
        self._begin = b"data: " + encode_line(document)[:-1]
        self._texts_begin: dict[int, bytes] = {}
        self._after_text = self._dialect.after_text + _OPEN_CHOICE + self._after_choices

    def _choice(self, index: int) -> bytes:
        return self._begin + b',"choices":[{"index":%d,' % index

    def _before_text(self, index: int) -> bytes:
        known = self._texts_begin.get(index)
        if known is None:
            known = self._texts_begin[index] = self._choice(index) + self._dialect.before_text
        return known

    def _open(self, accepted: Accepted) -> bytes:
        self._set_fingerprint(accepted.fingerprint)
        opening = self._dialect.opening
        if opening is None or self._is_opened:
            return b""
        self._is_opened = True
        rest = opening + _OPEN_CHOICE + self._after_choices
        return b"".join(self._choice(index) + rest for index in range(self._choices))

    def _thought(self, thought: Thought) -> bytes:
        """As DeepSeek's API has it, and vLLM and llama.cpp after it."""
        body = {"delta": {"reasoning_content": thought.text}, "logprobs": None, "finish_reason": None}
        return self._choice(thought.choice) + encode_line(body)[1:] + b"]" + self._after_choices

    def _rich(self, delta: TextDelta) -> bytes:
        """A delta with more than text."""
        body: dict[str, Any]
        if self._dialect is CHAT:
            says = {"content": delta.text} if delta.text or not delta.tool_calls else {}
            calls = {"tool_calls": list(map(_call_document, delta.tool_calls))} if delta.tool_calls else {}
            logprobs = chat_logprobs(delta.logprobs) if delta.logprobs else None
            body = {"delta": {**says, **calls}, "logprobs": logprobs, "finish_reason": None}
        else:
            offsets = self._offsets[delta.choice]
            logprobs = completion_logprobs(delta.logprobs, offsets) if delta.logprobs else None
            body = {"text": delta.text, "logprobs": logprobs, "finish_reason": None}
        return self._choice(delta.choice) + encode_line(body)[1:] + b"]" + self._after_choices

    def _close(self, finished: Finished) -> bytes:
        reasons = (finished.reason, *finished.other_reasons)
        last = b"".join(self._closing(index, reason) for index, reason in enumerate(reasons))
        if self._with_usage:
            last += self._begin + b',"choices":[],"usage":' + encode_line(usage_document(finished.usage)) + b"}\n\n"
        return last + sse.DONE

    def _closing(self, index: int, reason: FinishReason) -> bytes:
        rest = b',"logprobs":null,"finish_reason":' + encode_line(reason) + b"}]"
        return self._choice(index) + self._dialect.closing + rest + self._after_choices


def render_whole(dialect: Dialect, head: ResponseHead, generated: Generated) -> bytes:
    as_choice = _chat_choice if dialect is CHAT else _completion_choice
    return encode_line(
        {
            "id": head.id,
            "object": dialect.object,
            "created": head.created_s,
            "model": head.model,
            "system_fingerprint": generated.fingerprint,
            "choices": [as_choice(index, choice) for index, choice in enumerate(generated.choices)],
            "usage": usage_document(generated.finished.usage),
        }
    )


def _chat_choice(index: int, choice: GeneratedChoice) -> dict[str, Any]:
    content = None if choice.tool_calls and not choice.text else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.tool_calls:
        message["tool_calls"] = [_whole_call(call) for call in choice.tool_calls]
    if choice.thoughts:
        message["reasoning_content"] = choice.thoughts
    logprobs = chat_logprobs(choice.logprobs) if choice.logprobs else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.reason}


def _completion_choice(index: int, choice: GeneratedChoice) -> dict[str, Any]:
    """The echo of the prompt is a part of the text."""
    entries = (*choice.prompt_logprobs, *choice.logprobs)
    logprobs = completion_logprobs(entries, TokenOffsets()) if entries else None
    text = choice.prompt_text + choice.text
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": choice.reason}


def _whole_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_document(piece: ToolCallDelta) -> dict[str, Any]:
    """The first piece of a call has its id and name, and those that follow have not."""
    function: dict[str, Any] = {"arguments": piece.arguments}
    if piece.name is None:
        return {"index": piece.index, "function": function}
    named = {"name": piece.name, **function}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": named}
