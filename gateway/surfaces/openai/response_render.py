"""Renders the response objects of /v1/responses, and the items in them. Pure: no clock, no ids of its own, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.http.collected import Generated
from gateway.http.failures import Failure
from gateway.http.left_out import left_out_field
from gateway.surfaces.openai.logprobs import token_documents
from gateway.surfaces.openai.response_tools import NO_TOOLS, Known, Offered
from gateway.surfaces.openai.responses import ResponseBody
from gateway.surfaces.openai.tools import HOSTED, ToolBody
from p2pnet.messages import FinishReason, TokenLogprob, ToolCall, Usage

IN_PROGRESS = "in_progress"
COMPLETED = "completed"
INCOMPLETE = "incomplete"
FAILED = "failed"

_INCOMPLETE_REASONS: dict[FinishReason | None, str] = {
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}


@dataclass(frozen=True)
class ObjectHead:
    """What every state of one response carries: its id without a prefix, when it began, what was asked for, and which
    tools the model was shown. `keep` is given the document of the end, where the response is to be kept."""

    id: str
    created_s: int
    body: ResponseBody
    offered: Offered = NO_TOOLS
    keep: Callable[[dict[str, Any]], None] | None = None


def response_document(
    head: ObjectHead,
    status: str,
    output: Sequence[dict[str, Any]] = (),
    usage: Usage | None = None,
    fingerprint: str | None = None,
    failure: Failure | None = None,
    reason: FinishReason | None = None,
) -> dict[str, Any]:
    """A response in one of its states. `reason` is why it ended, once it has."""
    body = head.body
    return {
        "id": f"resp_{head.id}",
        "object": "response",
        "created_at": head.created_s,
        "status": status,
        "background": False,
        "error": None if failure is None else _error(failure),
        "incomplete_details": {"reason": _INCOMPLETE_REASONS[reason]} if reason in _INCOMPLETE_REASONS else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {**(body.metadata or {}), **head.offered.metadata},
        "model": body.model,
        "output": output,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "store": head.keep is not None,
        "system_fingerprint": fingerprint,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": _format(body)},
        "tool_choice": body.tool_choice or "auto",
        "tools": [_tool(tool) for tool in body.tools or () if tool.type not in HOSTED],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None if usage is None else _usage(usage),
        "user": body.user,
        **left_out_field(head.offered.left_out),
    }


def status_of(reason: FinishReason) -> str:
    return INCOMPLETE if reason in _INCOMPLETE_REASONS else COMPLETED


def text_part(text: str, logprobs: Iterable[TokenLogprob] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": token_documents(tuple(logprobs))}


def message_item(item_id: str, status: str, content: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"id": item_id, "type": "message", "status": status, "role": "assistant", "content": content}


def reasoning_item(item_id: str, status: str, content: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    return {"id": item_id, "type": "reasoning", "status": status, "summary": [], "content": content}


def thought_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def call_item(item_id: str, status: str, call: ToolCall, known: Known) -> dict[str, Any]:
    """A call as the client knows its tool."""
    shared = {"id": item_id, "status": status, "call_id": call.id, "name": known.name}
    shared |= {} if known.namespace is None else {"namespace": known.namespace}
    if known.is_custom:
        return {"type": "custom_tool_call", **shared, "input": known.input_of(call.arguments)}
    return {"type": "function_call", **shared, "arguments": call.arguments}


def kind_of(known: Known) -> str:
    """What the id of a call of this tool begins with."""
    return "ctc" if known.is_custom else "fc"


def item_id(head: ObjectHead, kind: str, index: int) -> str:
    """`kind` is msg, rs or that of a call; `index` is the item's position in the output."""
    return f"{kind}_{head.id}_{index}"


def render_input_tokens(generated: Generated) -> bytes:
    """How many tokens the input has."""
    tokens = generated.finished.usage.prompt_tokens
    return msgspec.json.encode({"object": "response.input_tokens", "input_tokens": tokens})


def render_response(head: ObjectHead, generated: Generated) -> bytes:
    """A whole response. An answer that says nothing and calls nothing is an empty message."""
    choice = generated.choices[0]
    status = status_of(choice.reason)
    items: list[dict[str, Any]] = []
    if choice.thoughts:
        items.append(reasoning_item(item_id(head, "rs", 0), COMPLETED, [thought_part(choice.thoughts)]))
    if choice.text or not (choice.tool_calls or items):
        part = text_part(choice.text, choice.logprobs)
        items.append(message_item(item_id(head, "msg", len(items)), COMPLETED, [part]))
    for call in choice.tool_calls:
        known = head.offered.of(call.name)
        items.append(call_item(item_id(head, kind_of(known), len(items)), COMPLETED, call, known))
    items[-1]["status"] = status  # only the last one can have been cut off
    finished = generated.finished
    document = response_document(head, status, items, finished.usage, generated.fingerprint, reason=choice.reason)
    if head.keep is not None:
        head.keep(document)
    return msgspec.json.encode(document)


def _error(failure: Failure) -> dict[str, Any]:
    """OpenAI has few codes for a response that failed: ours is in the message's place."""
    code = "rate_limit_exceeded" if failure.status == 429 else "server_error"
    return {"code": code, "message": f"{failure.message} ({failure.code})"}


def _format(body: ResponseBody) -> dict[str, Any]:
    wanted = body.text.format if body.text is not None else None
    if wanted is None:
        return {"type": "text"}
    if wanted.type != "json_schema":
        return {"type": wanted.type}
    return {"type": "json_schema", "name": wanted.name, "schema": wanted.schema_ or {}, "strict": wanted.strict}


def _tool(tool: ToolBody) -> dict[str, Any]:
    named = {"type": tool.type, "name": tool.name, "description": tool.description}
    if tool.type == "namespace":
        return {**named, "tools": [_tool(each) for each in tool.tools or ()]}
    if tool.type == "custom":
        return named
    return {**named, "parameters": tool.parameters, "strict": tool.strict is True}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
