"""Translates the input of /v1/responses, item by item, into the messages of a chat. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.http.bodies import Body
from gateway.surfaces.openai.tools import ROLES, Content, text_of
from p2pnet.errors import InvalidRequest


class Item(Body):
    """A message, a call that the model made, or what came of one. A message need not say that it is one."""

    type: str = "message"
    role: str | None = None
    content: Content | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: Content | None = None


def messages_of(given: str | Sequence[Item]) -> list[dict[str, Any]]:
    """The fields of each Message. Calls belong to the assistant's turn before them. Raises InvalidRequest.

    What a model elsewhere has thought is left out: chats have no place for it.
    """
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(given):
        where = f"input[{i}]"
        if item.type == "message":
            messages.append(_message(item, where))
        elif item.type == "function_call":
            _add_call(messages, item, where)
        elif item.type == "function_call_output":
            messages.append(_result(item, where))
        elif item.type != "reasoning":
            raise InvalidRequest(f"{where}.type: {item.type[:64]!r} is not supported here", f"{where}.type")
    return messages


def _message(item: Item, where: str) -> dict[str, Any]:
    role = ROLES.get(item.role or "")
    if role is None:
        raise InvalidRequest(f"{where}.role: one of {', '.join(ROLES)}", f"{where}.role")
    if item.content is None:
        raise InvalidRequest(f"{where}.content: required", f"{where}.content")
    return {"role": role, "content": text_of(item.content, f"{where}.content")}


def _add_call(messages: list[dict[str, Any]], item: Item, where: str) -> None:
    for name in ("call_id", "name"):
        if not getattr(item, name):
            raise InvalidRequest(f"{where}.{name}: required", f"{where}.{name}")
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    call = {"id": item.call_id, "name": item.name, "arguments": item.arguments or ""}
    messages[-1].setdefault("tool_calls", []).append(call)


def _result(item: Item, where: str) -> dict[str, Any]:
    if not item.call_id:
        raise InvalidRequest(f"{where}.call_id: required", f"{where}.call_id")
    if item.output is None:
        raise InvalidRequest(f"{where}.output: required", f"{where}.output")
    return {"role": "tool", "content": text_of(item.output, f"{where}.output"), "tool_call_id": item.call_id}
