"""Parses the bodies of /v1/responses into a GenerateRequest. Knows nothing of HTTP.

What an earlier response has said is looked up among those that are kept (`response_store.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, validated
from gateway.surfaces.openai.forms import Format, format_field
from gateway.surfaces.openai.items import Item, messages_of
from gateway.surfaces.openai.response_store import ResponseStore
from gateway.surfaces.openai.response_tools import Offered
from gateway.surfaces.openai.schema import GenerationBody, generate_request, refuse
from gateway.surfaces.openai.tools import ToolChoice, Tools, tool_fields
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_MESSAGES, GenerateRequest

WITH_LOGPROBS = "message.output_text.logprobs"

_MAX_METADATA = 16


class TextConfig(Body):
    format: Format | None = None
    verbosity: str | None = None


class ResponseBody(GenerationBody):
    """`user`, `service_tier`, `reasoning`, `text.verbosity`, `safety_identifier` and the keys of caches are hints,
    which the API lets a server ignore; `max_tool_calls` counts tools that run at the server, of which there are none.
    `stop`, `seed` and the like are not in OpenAI's responses, and work here as they do in chat."""

    model: str
    input: str | Annotated[list[Item], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    instructions: str | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: Annotated[list[str], Field(fail_fast=True)] | None = None
    text: TextConfig | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, str], Field(max_length=_MAX_METADATA)] | None = None
    truncation: str | None = None
    store: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None


def parse_response(raw: bytes) -> ResponseBody:
    """Raises InvalidRequest, which names the field."""
    body = validated(ResponseBody, raw)
    refuse(
        body,
        ("conversation", bool(body.conversation)),
        ("background", bool(body.background)),
        ("prompt", body.prompt is not None),
        ("truncation", body.truncation not in (None, "disabled")),
    )
    return body


def conversation_of(body: ResponseBody, store: ResponseStore, caller: str) -> list[Item]:
    """The items of the whole conversation: those of the response before it, and what the input refers to, as kept for
    this caller. Raises InvalidRequest."""
    if body.store and not store.keep_s:
        raise InvalidRequest("store: responses are not kept here; leave it out, or send false", "store")
    before: list[Item] = []
    if body.previous_response_id:
        kept = store.find(caller, body.previous_response_id)
        if kept is None:
            message = "no such response is kept here, or no longer; send the whole input"
            raise InvalidRequest(f"previous_response_id: {message}", "previous_response_id")
        before = list(map(Item.model_validate, kept.conversation()))
    if isinstance(body.input, str):
        return [*before, Item(role="user", content=body.input)]
    given = enumerate(body.input)
    return [*before, *(_looked_up(item, store, caller, i) if _is_reference(item) else item for i, item in given)]


def _is_reference(item: Item) -> bool:
    """Some clients leave its type out."""
    return item.type == "item_reference" or (item.type == "message" and item.id is not None and item.role is None)


def _looked_up(item: Item, store: ResponseStore, caller: str, index: int) -> Item:
    kept = None if item.id is None else store.find_item(caller, item.id)
    if kept is None:
        message = "no such item is kept here, or no longer; send the whole input"
        raise InvalidRequest(f"input[{index}].id: {message}", f"input[{index}].id")
    return Item.model_validate(kept)


def response_request(
    body: ResponseBody, items: Sequence[Item], offered: Offered, request_id: str, make_seed: Callable[[], int]
) -> GenerateRequest:
    """`items` are the whole conversation, `offered` the body's tools. Raises InvalidRequest, ModelNotFound."""
    messages = messages_of(items, offered.shown)
    if body.instructions:
        messages.insert(0, {"role": "system", "content": body.instructions})
    if not messages:
        raise InvalidRequest("input: required", "input")
    tools = tool_fields(offered.functions, body.tool_choice, body.parallel_tool_calls, offered.shown)
    has_logprobs = body.top_logprobs is not None or WITH_LOGPROBS in (body.include or ())
    fields = {
        "request_id": request_id,
        "model": body.model,
        "prompt": {"type": "chat", "messages": messages, **tools},
        "max_tokens": body.max_output_tokens,
        "logprobs": (body.top_logprobs or 0) if has_logprobs else None,
    }
    if body.text is not None and body.text.format is not None:
        fields["response_format"] = format_field(body.text.format, "text.format")
    return generate_request(body, fields, make_seed(), "max_output_tokens")
