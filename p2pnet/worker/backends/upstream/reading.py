"""Checks what a server says, for both dialects: JSON, counts, tool calls, reasons to end.

Raises WorkerFailed for what cannot be passed on. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from p2pnet.errors import WorkerFailed
from p2pnet.messages import MAX_TOOLS, FinishReason, ToolCallDelta, Usage

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding a stranger's JSON may raise."""

FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "abort": "length",
    "aborted": "length",
    "cancelled": "length",
    "error": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
    "sensitive": "content_filter",
    "refusal": "content_filter",
}
"""What other servers say at an answer's end, in our words. An answer that its server gave up is one that was cut short.
What is not listed (`eos`, `stop_sequence`, `end_turn`) is `stop`: whatever a server calls an end, nothing follows."""

MAX_COUNT = 1 << 31
MAX_NAME_CHARS = 128
"""Of a tool, or a call of one."""


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """Decodes a server's JSON."""
    try:
        return decode(body)
    except UNREADABLE as error:
        raise WorkerFailed("the upstream server sent what cannot be read") from error


def usage_of(prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int = 0) -> Usage | None:
    """The server's counts, or None where it does not tell them or they cannot be true."""
    if prompt_tokens is None or completion_tokens is None:
        return None
    if not all(0 <= count < MAX_COUNT for count in (prompt_tokens, completion_tokens, cached_tokens)):
        return None
    return Usage(prompt_tokens, completion_tokens, min(cached_tokens, prompt_tokens))


def finish_reason(said: str) -> FinishReason:
    """The reason in our words."""
    return FINISH_REASONS.get(said.lower(), "stop")


def check_tool_call(index: int, call_id: str | None, name: str | None) -> None:
    """Raises WorkerFailed for a tool call that fits no event of ours."""
    if not 0 <= index < MAX_TOOLS or len(call_id or "") > MAX_NAME_CHARS or len(name or "") > MAX_NAME_CHARS:
        raise WorkerFailed("the upstream server sent a tool call that cannot be passed on")


def arguments_text(arguments: str | dict[str, Any] | None) -> str:
    """A call's arguments as JSON text, or a piece of that. A server may send the object itself."""
    return msgspec.json.encode(arguments).decode() if isinstance(arguments, dict) else arguments or ""


def begun_call(index: int, call_id: str | None, name: str | None, arguments: str) -> ToolCallDelta:
    """The first piece of a checked tool call."""
    if not name:
        raise WorkerFailed("the upstream server sent a tool call without a name")
    return ToolCallDelta(index, call_id or f"call_{index}", name, arguments)
