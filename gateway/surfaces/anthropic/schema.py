"""Parses the request bodies of Anthropic's API into a GenerateRequest.

Types are checked here; the bounds of numbers live in `p2pnet.messages` and are checked against it. Unknown fields are
ignored, as are those that say nothing of the answer (`metadata`, `cache_control`, `service_tier`). Fields that would
change the answer and cannot be honoured are refused by name. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from pydantic import Field

from gateway.http.bodies import Body, greedy_without_choice, json_text, out_of_bounds, validated
from gateway.http.images import with_checked_images
from gateway.surfaces.anthropic.messages import MAX_BLOCKS, Turn, messages_of, split_prefill, text_of
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_MESSAGES, MAX_TOOLS, GenerateRequest, Message, Tool

COUNTED_TOKENS = 1
"""What is generated, and thrown away, where the prompt's tokens are to be counted and no worker tells them."""

_SAMPLING_FIELDS = ("temperature", "top_k", "top_p")

_THINKING = ("enabled", "adaptive")
"""Kinds of `thinking` with which what a model thinks is shown. Whether it thinks, and for how long, is its own affair
here: of `budget_tokens` nothing follows."""

_HOSTED = re.compile(r"(web_search|web_fetch|code_execution|tool_search_tool_[a-z0-9]+|advisor)_[0-9]{8}|mcp_toolset")
"""Kinds of tools that Anthropic runs. Others that it has named (`bash_...`, `text_editor_...`) run where the client is,
and nobody but its models knows how to call them."""

_NAMES = {
    "stop": "stop_sequences",
    "resume_text": "messages",
    "messages": "messages",
    "response_format": "output_config",
}
"""What Anthropic calls fields of ours, and those whose parts are others there."""


class ToolBody(Body):
    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(Body):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Format(Body):
    type: str
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class OutputConfig(Body):
    format: Format | None = None


class Thinking(Body):
    type: str


class CountBody(Body):
    """What a message and the counting of its tokens have in common. `output_format` is the older name of
    `output_config.format`."""

    model: str
    messages: Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: str | Annotated[list[Any], Field(max_length=MAX_BLOCKS)] | None = None
    tools: Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
    mcp_servers: list[Any] | None = None
    container: Any = None
    inference_geo: str | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """What of it nobody does, and the model may answer without."""
        servers = ("mcp_servers",) if self.mcp_servers else ()
        return (*(tool.type or "" for tool in self.tools or () if _is_hosted(tool)), *servers)


class MessageBody(CountBody):
    max_tokens: int
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(fail_fast=True)] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    @property
    def is_stream(self) -> bool:
        return bool(self.stream)

    @property
    def shows_thoughts(self) -> bool:
        return self.thinking is not None and self.thinking.type in _THINKING


def parse_message(raw: bytes) -> MessageBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(MessageBody, raw)
    _refuse(body)
    return body


def parse_count(raw: bytes) -> CountBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(CountBody, raw)
    _refuse(body)
    return body


def message_request(body: MessageBody, request_id: str, make_seed: Callable[[], int]) -> GenerateRequest:
    """Raises InvalidRequest, ModelNotFound."""
    given = ((name, getattr(body, name)) for name in _SAMPLING_FIELDS)
    sampling = {name: value for name, value in given if value is not None} | {"seed": make_seed()}
    limits = {
        "sampling": greedy_without_choice(sampling),
        "max_tokens": body.max_tokens,
        "stop": tuple(body.stop_sequences or ()),
    }
    return _request(body, request_id, limits)


def count_request(body: CountBody, request_id: str) -> GenerateRequest:
    """A request for the shortest answer to these messages: whoever gives it has counted them. Raises InvalidRequest,
    ModelNotFound."""
    return _request(body, request_id, {"max_tokens": COUNTED_TOKENS})


def _refuse(body: CountBody) -> None:
    fields = (
        ("thinking", body.thinking is not None and body.thinking.type not in (*_THINKING, "disabled")),
        ("container", body.container is not None),
        ("inference_geo", body.inference_geo not in (None, "global")),
    )
    for name, is_used in fields:
        if is_used:
            raise InvalidRequest(f"{name}: not supported here", name)


def _request(body: CountBody, request_id: str, limits: dict[str, Any]) -> GenerateRequest:
    turns, begun = split_prefill(body.messages)
    system = "" if body.system is None else text_of(body.system, "system")
    fields = {
        "request_id": request_id,
        "model": body.model,
        "prompt": {
            "type": "chat",
            "messages": (*([Message("system", system)] if system else []), *messages_of(turns)),
            **_tools(body),
        },
        "resume_text": begun,
        "response_format": _response_format(body),
        **limits,
    }
    try:
        # What is made already would not be checked.
        plain = msgspec.to_builtins(fields, builtin_types=(bytes,))
        return with_checked_images(msgspec.convert(plain, GenerateRequest))
    except msgspec.ValidationError as error:
        raise out_of_bounds(error, body.model, _NAMES) from error


def _tools(body: CountBody) -> dict[str, Any]:
    """`tools`, `tool_choice` and what goes with it, of a ChatPrompt."""
    tools = tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools or ()) if not _is_hosted(tool))
    choice = body.tool_choice or ToolChoice(type="auto")
    fields = {"tools": tools, "parallel_tool_calls": not choice.disable_parallel_tool_use}
    if choice.type in ("auto", "none"):
        return {**fields, "tool_choice": choice.type}
    if choice.type not in ("any", "tool"):
        raise InvalidRequest("tool_choice.type: one of auto, any, tool, none", "tool_choice")
    required = choice.name if choice.type == "tool" else None
    names = [tool.name for tool in tools]
    if not names or (choice.type == "tool" and required not in names):
        raise InvalidRequest("tool_choice: no such tool among the tools", "tool_choice")
    return {**fields, "tool_choice": "required", "required_tool": required}


def _is_hosted(tool: ToolBody) -> bool:
    return tool.type is not None and _HOSTED.fullmatch(tool.type) is not None


def _tool(tool: ToolBody, where: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(f"{where}.type: {tool.type[:64]!r} is not supported here, only custom tools are", where)
    if not tool.name:
        raise InvalidRequest(f"{where}.name: required", where)
    if tool.input_schema is None:
        raise InvalidRequest(f"{where}.input_schema: required", where)
    return Tool(tool.name, tool.description or "", json_text(tool.input_schema, f"{where}.input_schema"))


def _response_format(body: CountBody) -> dict[str, Any] | None:
    config = body.output_config
    chosen = body.output_format if config is None or config.format is None else config.format
    if chosen is None:
        return None
    if chosen.type != "json_schema" or chosen.json_schema is None:
        raise InvalidRequest("output_config.format: a json_schema, with its schema", "output_config")
    return {"type": "json_schema", "schema": json_text(chosen.json_schema, "output_config.format.schema")}
