"""Translates what chat and responses share: tools, the choice of them, message parts.

Both have the same parts and nest them differently. What comes out are fields of the canonical request, still to be
checked against it. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from gateway.http.images import INSTEAD, Said, image_of_url
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_TOOLS

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Chat templates know no developer: it is OpenAI's newer word for system."""

HOSTED = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "local_shell",
        "mcp",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""Tools that run at OpenAI, or that its models alone know how to call."""

NO_PARAMETERS = {"type": "object", "properties": {}}

_OF_CLIENTS = ("function", "custom")
"""Kinds of tools that run where the client is, and may be chosen by name."""

IMAGE_PARTS = ("image_url", "input_image")
TEXT_PARTS = ("text", "input_text", "output_text")


class ContentPart(Body):
    """Of an image, chat has the URL in an object, responses have it as it is. `detail`, which OpenAI's own models read,
    changes nothing here."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: dict[str, Any] | str | None = None


Content = str | Annotated[list[ContentPart], Field(fail_fast=True)]


class Function(Body):
    """`strict` is taken for granted where a call is required: it then fits its schema."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Body):
    """Chat has the function inside, responses have its fields here. `tools` are those of a group."""

    type: str = "function"
    function: Function | None = None
    tools: Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


Tools = Annotated[list[ToolBody], Field(fail_fast=True, max_length=MAX_TOOLS)]
ToolChoice = str | dict[str, Any]


def functions_of(tools: Sequence[ToolBody]) -> list[dict[str, Any]]:
    """The fields of each Tool that runs where the client is, where those are functions. Raises InvalidRequest."""
    of_clients = [(f"tools[{i}]", tool) for i, tool in enumerate(tools) if tool.type not in HOSTED]
    for where, tool in of_clients:
        if tool.type != "function":
            reason = f"{tool.type[:64]!r} is not supported here, only functions are"
            raise InvalidRequest(f"{where}.type: {reason}", f"{where}.type")
    return [function_fields(tool, where) for where, tool in of_clients]


def left_out_of(tools: Sequence[ToolBody]) -> tuple[str, ...]:
    """Which of them run nowhere here: the model may answer without them."""
    return tuple(tool.type for tool in tools if tool.type in HOSTED)


def tool_fields(
    functions: Sequence[dict[str, Any]],
    choice: ToolChoice | None,
    is_parallel: bool | None,
    shown: Callable[[str], str] = str,
) -> dict[str, Any]:
    """The fields of a ChatPrompt that say which tools there are. Raises InvalidRequest.

    Tools that must not be called are left out: a model without tools can then serve the request. `shown` is the name
    that the model is shown for one that the client uses.
    """
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        functions, choice = _allowed(functions, choice.get("allowed_tools", choice), shown)
    word, name = _choice(choice, {function["name"] for function in functions}, shown)
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


def content_of(content: Content, where: str) -> dict[str, Any]:
    """The fields of a Message that may hold images: its text, and where in it they stand. Raises InvalidRequest."""
    said = Said()
    for i, part in enumerate([ContentPart(type="text", text=content)] if isinstance(content, str) else content):
        if part.type in IMAGE_PARTS:
            said.add_image(_image(part, f"{where}[{i}]"))
        else:
            said.text += _part(part, where, i)
    return said.fields


def _image(part: ContentPart, where: str) -> bytes:
    url = part.image_url.get("url") if isinstance(part.image_url, dict) else part.image_url
    if not isinstance(url, str):
        raise InvalidRequest(f"{where}.image_url: required; {INSTEAD}", f"{where}.image_url")
    return image_of_url(url, f"{where}.image_url")


def _part(part: ContentPart, where: str, index: int) -> str:
    text = part.text if part.type in TEXT_PARTS else part.refusal if part.type == "refusal" else None
    if text is None:
        if part.type in IMAGE_PARTS:
            reason = "images go into messages of the user, and into what tools have answered"
        else:
            reason = "only text and images are supported here"
        raise InvalidRequest(f"{where}[{index}]: {reason}", where)
    return text


def function_fields(tool: ToolBody, where: str) -> dict[str, Any]:
    """The fields of the Tool that a function is. Raises InvalidRequest."""
    function = tool.function or tool
    if function.name is None:
        raise InvalidRequest(f"{where}.function: required", f"{where}.function")
    parameters = NO_PARAMETERS if function.parameters is None else function.parameters
    return {
        "name": function.name,
        "description": function.description or "",
        "parameters": json_text(parameters, f"{where}.function.parameters"),
    }


def _allowed(
    functions: Sequence[dict[str, Any]], allowed: Any, shown: Callable[[str], str]
) -> tuple[Sequence[dict[str, Any]], str]:
    """Those of the tools that may be called, and whether one must be. Tools of other kinds were left out already."""
    tools, mode = (allowed.get("tools"), allowed.get("mode", "auto")) if isinstance(allowed, dict) else (None, None)
    if not isinstance(tools, list) or mode not in ("auto", "required"):
        raise InvalidRequest("tool_choice: allowed_tools has a mode, auto or required, and tools", "tool_choice")
    given = [tool for tool in tools if isinstance(tool, dict) and tool.get("type") in _OF_CLIENTS]
    names = {shown(_chosen_name(tool)) for tool in given}
    if not names <= {function["name"] for function in functions}:
        raise InvalidRequest("tool_choice: not one of the tools", "tool_choice")
    return [function for function in functions if function["name"] in names], mode


def _choice(choice: ToolChoice | None, names: Collection[str], shown: Callable[[str], str]) -> tuple[str, str | None]:
    """`auto`, `none` or `required`, and the tool that must be called where one is named."""
    if isinstance(choice, dict):
        name = shown(_chosen_name(choice))
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
    if choice.get("type") not in _OF_CLIENTS or not isinstance(name, str):
        raise InvalidRequest("tool_choice: none, auto, required or one function", "tool_choice")
    return name
