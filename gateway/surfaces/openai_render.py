"""Generation events to the JSON and SSE of OpenAI's API. Pure: no clock, no ids of its own, no I/O.

What is the same in every chunk of a stream is rendered once; only the text is encoded per delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.failures import Failure
from gateway.replies import Generated
from gateway.service import GenerationEvent, ModelEntry
from p2pnet.messages import Accepted, Finished, TextDelta, Usage

SSE_MEDIA_TYPE = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.encode


@dataclass(frozen=True)
class Envelope:
    """What every document and chunk of one response carries."""

    id: str
    created_s: int
    model: str


@dataclass(frozen=True)
class Dialect:
    """How chat and completions differ. `opening` is the body of the first chunk's choice, where there is one."""

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
    """The chunks of one streamed response, in order."""

    media_type = SSE_MEDIA_TYPE
    keep_alive = b": keep-alive\n\n"

    def __init__(self, dialect: Dialect, envelope: Envelope, with_usage: bool) -> None:
        self._dialect = dialect
        self._envelope = envelope
        self._with_usage = with_usage
        self._usage_null = b',"usage":null' if with_usage else b""
        self._is_opened = False
        self._set_digest(None)

    def render(self, events: Sequence[GenerationEvent]) -> bytes:
        parts: list[bytes] = []
        before, after = self._before_delta, self._after_delta
        for event in events:
            if isinstance(event, TextDelta):
                if event.text:
                    parts += (before, _encode(event.text), after)
            elif isinstance(event, Accepted):
                parts.append(self._open(event))
                before, after = self._before_delta, self._after_delta
            else:
                parts.append(self._close(event))
        return b"".join(parts)

    def render_failure(self, failure: Failure) -> bytes:
        return b"data: " + render_error(failure) + b"\n\n"

    def _set_digest(self, digest: str | None) -> None:
        head = {
            "id": self._envelope.id,
            "object": self._dialect.chunk_object,
            "created": self._envelope.created_s,
            "model": self._envelope.model,
            "system_fingerprint": digest,
        }
        self._head = b"data: " + _encode(head)[:-1]
        self._before_delta = self._head + b',"choices":[{"index":0,' + self._dialect.before_text
        self._after_delta = self._dialect.after_text + _OPEN_CHOICE + self._usage_null + b"}\n\n"

    def _open(self, accepted: Accepted) -> bytes:
        self._set_digest(accepted.digest)
        if self._dialect.opening is None:
            return b""
        return (
            self._head + b',"choices":[{"index":0,' + self._dialect.opening + _OPEN_CHOICE + self._usage_null + b"}\n\n"
        )

    def _close(self, finished: Finished) -> bytes:
        reason = b',"logprobs":null,"finish_reason":' + _encode(finished.reason) + b"}]"
        last = self._head + b',"choices":[{"index":0,' + self._dialect.closing + reason + self._usage_null + b"}\n\n"
        if self._with_usage:
            last += self._head + b',"choices":[],"usage":' + _encode(usage_document(finished.usage)) + b"}\n\n"
        return last + DONE


def render_whole(dialect: Dialect, envelope: Envelope, generated: Generated) -> bytes:
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": generated.finished.reason}
    if dialect is CHAT:
        choice["message"] = {"role": "assistant", "content": generated.text, "refusal": None}
    else:
        choice["text"] = generated.text
    return _encode(
        {
            "id": envelope.id,
            "object": dialect.object,
            "created": envelope.created_s,
            "model": envelope.model,
            "system_fingerprint": generated.digest,
            "choices": [choice],
            "usage": usage_document(generated.finished.usage),
        }
    )


def usage_document(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def model_document(entry: ModelEntry) -> dict[str, Any]:
    """OpenAI's four fields, and what this network knows beyond them (`max_model_len` is vLLM's name)."""
    return {
        "id": entry.id,
        "object": "model",
        "created": entry.created_s,
        "owned_by": "p2pnet",
        "max_model_len": entry.context_length,
        "workers": entry.workers,
        "digests": entry.digests,
    }


def render_models(entries: Sequence[ModelEntry]) -> bytes:
    return _encode({"object": "list", "data": [model_document(entry) for entry in entries]})


def render_model(entry: ModelEntry) -> bytes:
    return _encode(model_document(entry))


def render_error(failure: Failure) -> bytes:
    error = {
        "message": failure.message,
        "type": _error_type(failure.status),
        "param": failure.param,
        "code": failure.code,
    }
    return _encode({"error": error})


def _error_type(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 else "server_error"
