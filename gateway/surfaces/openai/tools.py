"""Translates what chat and responses share: tools, the choice of them, message parts.

Both have the same parts and nest them differently. What comes out are fields of the canonical request, still to be
checked against it. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_TOOLS

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Chat templates know no developer: it is OpenAI's newer word for system."""

NO_PARAMETERS = {"type": "object", "properties": {}}

TEXT_PARTS = ("text", "input_text", "output_text")


class ContentPart(Body):
    type: str
    text: str | None = None
    refusal: str | None = None


Content = str | Annotated[list[ContentPart], Field(fail_fast=True)]


class Function(Body):
    """`strict` is taken for granted where a call is required: it then fits its schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """Chat has the function inside, responses have its fields here."""

    type: str = "function"
    function: Function | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tools = Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)]
ToolChoice = str | dict[str, Any]


def tool_fields(
    tools: Sequence[ToolBody] | None, choice: ToolChoice | None, is_parallel: bool | None
) -> dict[str, Any]:
    """The fields of a ChatPrompt that say which tools there are. Raises InvalidRequest.

    Tools that must not be called are left out: a model without tools can then serve the request.
    """
    functions = [_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or ())]
    word, name = _choice(choice, {function["name"] for function in functions})
    if word == "none" or not functions:
        return {}
    return {
        "tools": functions,
        "tool_choice": word,
        "required_tool": name,
        "parallel_tool_calls": is_parallel is not False,
    }


def text_of(content: Content, where: str) -> str:
    """The text of a message's parts, joined. Raises InvalidRequest."""
    if isinstance(content, str):
        return content
    return "".join(_part(part, where, i) for i, part in enumerate(content))


def _part(part: ContentPart, where: str, index: int) -> str:
    text = part.text if part.type in TEXT_PARTS else part.refusal if part.type == "refusal" else None
    if text is None:
        raise InvalidRequest(f"{where}[{index}]: only text parts are supported here", where)
    return text


def _function(tool: ToolBody, where: str) -> dict[str, Any]:
    if tool.type != "function":
        reason = f"{tool.type[:64]!r} is not supported here, only functions are"
        raise InvalidRequest(f"{where}.type: {reason}", f"{where}.type")
    function = tool.function or tool
    if function.name is None:
        raise InvalidRequest(f"{where}.function: required", f"{where}.function")
    parameters = NO_PARAMETERS if function.parameters is None else function.parameters
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": json_text(parameters, f"{where}.function.parameters"),
    }


def _choice(choice: ToolChoice | None, names: Collection[str]) -> tuple[str, str | None]:
    """`auto`, `none` or `required`, and the tool that must be called where one is named."""
    if isinstance(choice, dict):
        name = _chosen_name(choice)
        if name not in names:
            raise InvalidRequest("tool_choice: not one of the tools", "tool_choice")
        return "required", name
    if choice not in (None, "auto", "none", "required"):
        raise InvalidRequest("tool_choice: none, auto, required or one function", "tool_choice")
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice: there are no tools", "tool_choice")
    return choice or "auto", None


def _chosen_name(choice: dict[str, Any]) -> str:
    function = choice.get("function", choice)
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise InvalidRequest("tool_choice: none, auto, required or one function", "tool_choice")
    return name
