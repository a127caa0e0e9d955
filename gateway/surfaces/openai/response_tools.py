"""Reads the tools of /v1/responses: functions, groups of functions, free-form ones, and those that run at OpenAI. Pure.

A model here is shown functions. A group (`namespace`) is its functions, a free-form tool (`custom`) a function of one
text. What it calls is given back under the name and in the shape that its client knows. A tool that would run at the
server is left out, and the response says so: the model may answer without it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.http.bodies import json_text
from gateway.surfaces.openai.tools import HOSTED, ToolBody, function_fields, left_out_of
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_TOOLS

FREE_FORM = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""The parameters of the function that stands for a free-form tool."""

NOTE = "p2pnet_note"
"""The key of a response's metadata that says what was not done as asked."""


@dataclass(frozen=True)
class Known:
    """A tool as its client knows it."""

    name: str
    namespace: str | None = None
    is_custom: bool = False

    def input_of(self, arguments: str) -> str:
        """What a free-form tool is given. A model that does not keep to the form has written the text itself."""
        try:
            return str(msgspec.json.decode(arguments, type=dict[str, str])["input"])
        except (msgspec.MsgspecError, UnicodeError, KeyError):
            return arguments


@dataclass(frozen=True)
class Offered:
    """The tools of one request. `functions` are the fields of Tool, `known` says which tool each of them stands for."""

    functions: Sequence[dict[str, Any]] = ()
    known: dict[str, Known] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    def of(self, shown: str) -> Known:
        return self.known.get(shown) or Known(shown)

    def shown(self, name: str, namespace: str | None = None) -> str:
        """What the model was shown, for a name that the client uses."""
        fitting = (shown for shown, known in self.known.items() if (known.name, known.namespace) == (name, namespace))
        return next(fitting, name)

    @property
    def metadata(self) -> dict[str, str]:
        """What a response says of tools that were left out."""
        if not self.left_out:
            return {}
        return {NOTE: f"left out, as no tools run here: {', '.join(dict.fromkeys(self.left_out))}"[:512]}


NO_TOOLS = Offered()


def offered_tools(tools: Sequence[ToolBody]) -> Offered:
    """Raises InvalidRequest."""
    left_out = left_out_of(tools)
    flat = list(_flattened(tools))
    if len(flat) > MAX_TOOLS:
        raise InvalidRequest(f"tools: at most {MAX_TOOLS}, those in groups included", "tools")
    names = Counter(known.name for known, _ in flat)
    functions, by_shown = [], dict[str, Known]()
    for known, fields in flat:
        is_alone = known.namespace is None or names[known.name] == 1
        shown = known.name if is_alone else f"{known.namespace}__{known.name}"
        functions.append({**fields, "name": shown})
        by_shown[shown] = known
    return Offered(functions, by_shown, left_out)


def _flattened(
    tools: Sequence[ToolBody], namespace: str | None = None, at: str = "tools"
) -> Iterator[tuple[Known, dict[str, Any]]]:
    for i, tool in enumerate(tools):
        where = f"{at}[{i}]"
        if tool.type in HOSTED:
            continue
        if tool.type not in ("function", "custom", "namespace") or (tool.type == "namespace" and namespace):
            raise InvalidRequest(f"{where}.type: {tool.type[:64]!r} is not supported here", f"{where}.type")
        if tool.name is None:
            raise InvalidRequest(f"{where}.name: required", f"{where}.name")
        if tool.type == "namespace":
            yield from _flattened(tool.tools or (), tool.name, f"{where}.tools")
        elif tool.type == "custom":
            description = tool.description or ""
            fields = {"description": description, "parameters": json_text(FREE_FORM, where)}
            yield Known(tool.name, namespace, is_custom=True), fields
        else:
            yield Known(tool.name, namespace), function_fields(tool, where)
