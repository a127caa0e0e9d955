"""Renders generations as the JSON and SSE of Anthropic's API. Pure: no clock, no ids of its own, no I/O.

An answer is a list of blocks, of text and of calls of tools, one after the other; a stream opens and closes each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic_core import from_json

from gateway.http import sse
from gateway.http.collected import Generated
from gateway.http.failures import Failure
from gateway.http.left_out import left_out_field
from gateway.http.one_line import encode_line
from gateway.http.replies import AnswerEvent, waiting_comment
from gateway.http.thoughts import Thought
from gateway.interface import ModelEntry, Waiting
from p2pnet.errors import WorkerFailed
from p2pnet.messages import Accepted, Finished, FinishReason, TextDelta, ToolCall, ToolCallDelta, Usage

PING = sse.event("ping", b'{"type":"ping"}')

STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""By status. Others under 500 are `invalid_request_error`, from there on `api_error`."""


@dataclass(frozen=True)
class MessageHead:
    """What is known of a message before it begins."""

    id: str
    model: str
    stop_sequences: tuple[str, ...] = ()
    shows_thoughts: bool = False
    """Whether the client has asked for what the model thinks: others expect text in the first block."""
    left_out: Sequence[str] = ()
    """What of the request nobody does."""


class MessageRenderer:
    """Renders the events of one streamed message, in order."""

    media_type = sse.MEDIA_TYPE
    shows_thoughts = True

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._index = -1
        """Of the last block that was opened."""
        self._open_for: int | str | None = None
        """What the open block has: text, thoughts, or which call of a tool."""
        self._before_text = b""

    def keep_alive(self, waiting: Waiting | None) -> bytes:
        return PING if waiting is None else b": " + waiting_comment(waiting).encode() + b"\n" + PING

    def render(self, events: Sequence[AnswerEvent]) -> bytes:
        return b"".join(part for event in events for part in self._parts(event))

    def render_failure(self, failure: Failure) -> bytes:
        return sse.event("error", render_error(failure))

    def with_receipts(self, end: bytes, document: bytes) -> bytes:
        return sse.with_receipts(end, document)

    def _parts(self, event: AnswerEvent) -> Iterator[bytes]:
        if isinstance(event, Accepted):
            message = _message(self._head, [], None, None, usage_document(Usage(event.prompt_tokens, 0)))
            yield _event("message_start", {"message": message})
        elif isinstance(event, Thought):
            yield from self._thought(event)
        elif isinstance(event, Finished):
            yield from self._close()
            reason, sequence = stop_of(event, self._head)
            delta = {"stop_reason": reason, "stop_sequence": sequence}
            usage = usage_document(event.usage)
            yield _event("message_delta", {"delta": delta, "usage": usage, **left_out_field(self._head.left_out)})
            yield _event("message_stop", {})
        else:
            yield from self._delta(event)

    def _thought(self, thought: Thought) -> Iterator[bytes]:
        if not self._head.shows_thoughts:
            yield PING  # it may take minutes, and something has to come
            return
        if self._open_for != "thinking":
            yield from self._open("thinking", thinking_block(""))
        delta = {"type": "thinking_delta", "thinking": thought.text}
        yield _event("content_block_delta", {"index": self._index, "delta": delta})

    def _delta(self, delta: TextDelta) -> Iterator[bytes]:
        if delta.text:
            if self._open_for != "text":
                yield from self._open("text", {"type": "text", "text": ""})
                self._before_text = _begin_of_text_delta(self._index)
            yield self._before_text + encode_line(delta.text) + b"}}\n\n"
        for piece in delta.tool_calls:
            yield from self._call_piece(piece)

    def _call_piece(self, piece: ToolCallDelta) -> Iterator[bytes]:
        if self._open_for != piece.index:
            block = {"type": "tool_use", "id": piece.id or "", "name": piece.name or "", "input": {}}
            yield from self._open(piece.index, block)
        if piece.arguments:
            delta = {"type": "input_json_delta", "partial_json": piece.arguments}
            yield _event("content_block_delta", {"index": self._index, "delta": delta})

    def _open(self, content: int | str, block: dict[str, Any]) -> Iterator[bytes]:
        yield from self._close()
        self._open_for = content
        self._index += 1
        yield _event("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> Iterator[bytes]:
        if self._open_for is not None:
            self._open_for = None
            yield _event("content_block_stop", {"index": self._index})


def render_message(head: MessageHead, generated: Generated) -> bytes:
    """Raises WorkerFailed when the model's calls of tools are not what this API can say."""
    (choice,) = generated.choices
    content: list[dict[str, Any]] = []
    if choice.thoughts and head.shows_thoughts:
        content.append(thinking_block(choice.thoughts))
    if choice.text:
        content.append({"type": "text", "text": choice.text})
    is_cut = choice.reason in ("length", "content_filter")
    content += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _input(call, is_cut)}
        for call in choice.tool_calls
    ]
    reason, sequence = stop_of(generated.finished, head)
    return encode_line(_message(head, content, reason, sequence, usage_document(generated.finished.usage)))


def thinking_block(text: str) -> dict[str, str]:
    """Without the signature that Anthropic gives, since nobody here checks one."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def stop_of(finished: Finished, head: MessageHead) -> tuple[str, str | None]:
    """`stop_reason` and `stop_sequence`. A worker that does not tell a stop string from the model's own end is taken
    to mean the latter."""
    if finished.reason == "stop" and finished.stop in head.stop_sequences:
        return "stop_sequence", finished.stop
    return STOP_REASONS[finished.reason], None


def usage_document(usage: Usage) -> dict[str, int]:
    """Here the tokens that came out of a cache are not among the `input_tokens`."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def render_count(generated: Generated) -> bytes:
    return encode_line({"input_tokens": generated.finished.usage.prompt_tokens})


def model_document(entry: ModelEntry) -> dict[str, Any]:
    created = datetime.fromtimestamp(entry.created_s, UTC).isoformat().replace("+00:00", "Z")
    return {
        "type": "model",
        "id": entry.id,
        "display_name": entry.id,
        "created_at": created,
        "lifecycle": "active",
        "max_input_tokens": entry.context_length,
    }


def render_model(entry: ModelEntry) -> bytes:
    return encode_line(model_document(entry))


def render_models(entries: Sequence[ModelEntry], has_more: bool) -> bytes:
    documents = [model_document(entry) for entry in entries]
    ends = {"first_id": entries[0].id, "last_id": entries[-1].id} if entries else {"first_id": None, "last_id": None}
    return encode_line({"data": documents, "has_more": has_more, **ends})


def render_error(failure: Failure) -> bytes:
    other = "invalid_request_error" if failure.status < 500 else "api_error"
    error = {"type": ERROR_TYPES.get(failure.status, other), "message": failure.message}
    return encode_line({"type": "error", "error": error})


def _message(
    head: MessageHead,
    content: list[dict[str, Any]],
    stop_reason: str | None,
    stop_sequence: str | None,
    usage: dict[str, int],
) -> dict[str, Any]:
    return {
        "id": head.id,
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": usage,
        **left_out_field(head.left_out),
    }


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return sse.event(kind, encode_line({"type": kind, **fields}))


def _begin_of_text_delta(index: int) -> bytes:
    """What all deltas of one block of text begin with: only the text is encoded for each."""
    whole = _event("content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": ""}})
    return whole.removesuffix(b'""}}\n\n')


def _input(call: ToolCall, is_cut: bool) -> dict[str, Any]:
    """What a model has written as a call's arguments. Where it was cut off, as much of that as there is."""
    try:
        arguments = from_json(call.arguments or "{}", allow_partial=is_cut)
    except ValueError as error:
        raise WorkerFailed("The model called a tool with arguments that are not JSON.") from error
    if not isinstance(arguments, dict):
        raise WorkerFailed("The model called a tool with arguments that are not a JSON object.")
    return arguments
