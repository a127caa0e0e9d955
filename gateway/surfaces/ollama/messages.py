"""Translates the messages and tools of Ollama's /api/chat into ours. Pure.

Ollama matches the answers of tools to calls by name or by order; our messages do it by the call's id, which its Python
client drops, and which is therefore made up again here where it is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from gateway.http.images import image_of_base64
from p2pnet.messages import MAX_IMAGES, MAX_TOOLS


class CallFunction(Body):
    name: str
    arguments: dict[str, Any] | None = None


class CallBody(Body):
    id: str | None = None
    function: CallFunction


Images = Annotated[list[str], Field(fail_fast=True, max_length=MAX_IMAGES)]
"""Each in base64."""


class ChatMessage(Body):
    """`thinking` is not read: templates leave out what a model thought in earlier turns."""

    role: str
    content: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[CallBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ToolFunction(Body):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolBody(Body):
    function: ToolFunction


def chat_tools(tools: Sequence[ToolBody]) -> list[dict[str, Any]]:
    """The fields of `messages.Tool`, unchecked. Raises InvalidRequest."""
    return [
        {
            "name": tool.function.name,
            "description": tool.function.description or "",
            "parameters": json_text(tool.function.parameters or {}, f"tools[{index}]"),
        }
        for index, tool in enumerate(tools)
    ]


def chat_messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """The fields of `messages.Message`, unchecked. Raises InvalidRequest."""
    conversation = _Conversation()
    for index, message in enumerate(messages):
        conversation.add(message, f"messages[{index}]")
    return conversation.messages


def image_fields(images: Sequence[str], where: str) -> dict[str, Any]:
    """The `images` of a Message: they stand before its text, as Ollama puts them. Raises InvalidRequest."""
    read = [{"data": image_of_base64(image, f"{where}[{i}]")} for i, image in enumerate(images)]
    return {"images": read} if read else {}


class _Conversation:
    """Follows which calls still wait for their tool's answer."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._waiting: list[dict[str, str]] = []
        self._calls = 0

    def add(self, message: ChatMessage, where: str) -> None:
        said: dict[str, Any] = {"role": message.role.lower(), "content": message.content or ""}
        said |= image_fields(message.images or (), f"{where}.images")
        if message.tool_calls:
            self._waiting = [self._call(call, where) for call in message.tool_calls]
            said["tool_calls"] = self._waiting
        if said["role"] == "tool":
            said |= self._answered(message)
        self.messages.append(said)

    def _call(self, call: CallBody, where: str) -> dict[str, str]:
        self._calls += 1
        return {
            "id": call.id or f"call_{self._calls}",
            "name": call.function.name,
            "arguments": json_text(call.function.arguments or {}, f"{where}.tool_calls"),
        }

    def _answered(self, message: ChatMessage) -> dict[str, str]:
        """The call is found by its id, else by its name, else it is the next in order."""
        call = self._waiting_for(message)
        if call is not None:
            self._waiting = [other for other in self._waiting if other is not call]
        known = call or {"id": "", "name": ""}
        answered = {"tool_call_id": message.tool_call_id or known["id"], "name": message.tool_name or known["name"]}
        return {key: value for key, value in answered.items() if value}

    def _waiting_for(self, message: ChatMessage) -> dict[str, str] | None:
        for key, value in (("id", message.tool_call_id), ("name", message.tool_name)):
            if value:
                return next((call for call in self._waiting if call[key] == value), None)
        return self._waiting[0] if self._waiting else None
