"""Parses the bodies of /v1/chat/completions into a GenerateRequest. Knows nothing of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, validated
from gateway.surfaces.openai.schema import GenerationBody, generate_request, refuse
from gateway.surfaces.openai.tools import (
    ROLES,
    Content,
    ToolChoice,
    Tools,
    content_of,
    functions_of,
    left_out_of,
    text_of,
    tool_fields,
)
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_MESSAGES, MAX_TOOLS, GenerateRequest


class CalledFunction(Body):
    name: str
    arguments: str = ""


class CalledTool(Body):
    id: str
    type: str = "function"
    function: CalledFunction | None = None


class ChatMessage(Body):
    role: str
    content: Content | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: Annotated[list[CalledTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    function_call: Any = None
    audio: Any = None


class ChatBody(GenerationBody):
    """`user`, `metadata`, `store`, `service_tier`, `reasoning_effort`, `verbosity`, `prediction` and the keys of caches
    are hints, which the API lets a server ignore."""

    model: str
    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: str | dict[str, Any] | None = None
    modalities: Annotated[list[str], Field(fail_fast=True)] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of it nobody does, and the model may answer without."""
        searches = () if self.web_search_options is None else ("web_search_options",)
        return (*left_out_of(self.tools or ()), *searches)


def parse_chat(raw: bytes) -> ChatBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(ChatBody, raw)
    refuse(
        body,
        ("functions", bool(body.functions) and body.function_call != "none"),
        ("function_call", body.function_call not in (None, "none", "auto")),
        ("modalities", body.modalities not in (None, [], ["text"])),
        ("audio", body.audio is not None),
        ("echo", bool((body.model_extra or {}).get("echo"))),
    )
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs: needs logprobs to be true", "top_logprobs")
    return body


def chat_request(body: ChatBody, request_id: str, make_seed: Callable[[], int]) -> GenerateRequest:
    """Raises InvalidRequest, ModelNotFound."""
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(body.messages)]
    tools = tool_fields(functions_of(body.tools or ()), body.tool_choice, body.parallel_tool_calls)
    limit_name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    fields = {
        "request_id": request_id,
        "model": body.model,
        "prompt": {"type": "chat", "messages": messages, **tools},
        "max_tokens": getattr(body, limit_name),
        "n": 1 if body.n is None else body.n,
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
    }
    return generate_request(body, fields, make_seed(), limit_name)


def _message(message: ChatMessage, where: str) -> dict[str, Any]:
    for name in ("function_call", "audio"):
        if getattr(message, name):
            raise InvalidRequest(f"{where}.{name}: not supported here", f"{where}.{name}")
    if message.role == "tool":
        return _result(message, where)
    role = ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(f"{where}.role: one of {', '.join((*ROLES, 'tool'))}", f"{where}.role")
    if message.tool_calls and role != "assistant":
        raise InvalidRequest(f"{where}.tool_calls: only an assistant calls tools", f"{where}.tool_calls")
    calls = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls or ())]
    said = _content(message, where) if role == "user" else {"content": _text(message, where)}
    return {"role": role, **said, "tool_calls": calls, "name": message.name or None}


def _result(message: ChatMessage, where: str) -> dict[str, Any]:
    """What a tool answered."""
    if not message.tool_call_id:
        raise InvalidRequest(f"{where}.tool_call_id: required", f"{where}.tool_call_id")
    return {
        "role": "tool",
        **_content(message, where),
        "tool_call_id": message.tool_call_id,
        "name": message.name or None,
    }


def _content(message: ChatMessage, where: str) -> dict[str, Any]:
    """What may hold images."""
    if message.content is None:
        raise InvalidRequest(f"{where}.content: required", f"{where}.content")
    return content_of(message.content, f"{where}.content")


def _text(message: ChatMessage, where: str) -> str:
    """An assistant may have called tools, or refused, instead of saying something."""
    if message.content is not None:
        return text_of(message.content, f"{where}.content")
    if message.role == "assistant" and (message.tool_calls or message.refusal):
        return message.refusal or ""
    raise InvalidRequest(f"{where}.content: required", f"{where}.content")


def _call(call: CalledTool, where: str) -> dict[str, Any]:
    if call.type != "function" or call.function is None:
        raise InvalidRequest(f"{where}.function: required, calls are of functions here", f"{where}.function")
    return {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
