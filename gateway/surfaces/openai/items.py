"""Translates the input of /v1/responses, item by item, into the messages of a chat. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gateway.http.bodies import Body, json_text
from gateway.surfaces.openai.tools import ROLES, Content, content_of, text_of
from p2pnet.errors import InvalidRequest


class Item(Body):
    """A message, a call that the model made, or what came of one. A message need not say that it is one. A free-form
    tool has `input`."""

    type: str = "message"
    id: str | None = None
    role: str | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | None = None
    input: str | None = None
    output: Content | None = None


UNREAD = frozenset(
    {
        "code_interpreter_call",
        "compaction",
        "compaction_summary",
        "file_search_call",
        "image_generation_call",
        "mcp_list_tools",
        "reasoning",
        "web_search_call",
    }
)
"""Items that chats have no place for, and that say nothing without OpenAI's keys: what a model elsewhere has thought, a
conversation that was made shorter there, what tools there did."""

Shown = Callable[[str, str | None], str]
"""The name that the model was shown for a tool, by the name and the group that its client knows."""


def messages_of(given: Sequence[Item], shown: Shown) -> list[dict[str, Any]]:
    """The fields of each Message. What an assistant says and calls in a row is one turn. Raises InvalidRequest."""
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(given):
        where = f"input[{i}]"
        if item.type == "message":
            _add_message(messages, item, where)
        elif item.type in ("function_call", "custom_tool_call"):
            _add_call(messages, item, where, shown)
        elif item.type in ("function_call_output", "custom_tool_call_output"):
            messages.append(_result(item, where))
        elif item.type not in UNREAD:
            raise InvalidRequest(f"{where}.type: {item.type[:64]!r} is not supported here", f"{where}.type")
    return messages


def _add_message(messages: list[dict[str, Any]], item: Item, where: str) -> None:
    role = ROLES.get(item.role or "")
    if role is None:
        raise InvalidRequest(f"{where}.role: one of {', '.join(ROLES)}", f"{where}.role")
    if item.content is None:
        raise InvalidRequest(f"{where}.content: required", f"{where}.content")
    if role == "user":
        messages.append({"role": role, **content_of(item.content, f"{where}.content")})
        return
    text = text_of(item.content, f"{where}.content")
    last = messages[-1] if messages else {}
    if role == "assistant" and "tool_calls" in last:  # said between its calls and what came of them
        last["content"] += text
    else:
        messages.append({"role": role, "content": text})


def _add_call(messages: list[dict[str, Any]], item: Item, where: str, shown: Shown) -> None:
    for name in ("call_id", "name"):
        if not getattr(item, name):
            raise InvalidRequest(f"{where}.{name}: required", f"{where}.{name}")
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    arguments = item.arguments or ""
    if item.type == "custom_tool_call":
        arguments = json_text({"input": item.input or ""}, f"{where}.input")
    call = {"id": item.call_id, "name": shown(item.name or "", item.namespace), "arguments": arguments}
    messages[-1].setdefault("tool_calls", []).append(call)


def _result(item: Item, where: str) -> dict[str, Any]:
    if not item.call_id:
        raise InvalidRequest(f"{where}.call_id: required", f"{where}.call_id")
    if item.output is None:
        raise InvalidRequest(f"{where}.output: required", f"{where}.output")
    return {"role": "tool", **content_of(item.output, f"{where}.output"), "tool_call_id": item.call_id}
