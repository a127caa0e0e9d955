"""Describes an answer that has to call tools, as parts of a grammar.

Knows no constraint library but the text of llguidance's grammars
(https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from p2pnet.errors import InvalidRequest
from p2pnet.messages import ChatPrompt, Tool
from p2pnet.worker.text.schema import parse_schema
from p2pnet.worker.text.tool_calls.formats import Layout, ToolFormat
from p2pnet.worker.text.tool_calls.parameter_calls import PARAMETER, PARAMETER_END, is_text
from p2pnet.worker.text.tool_calls.reader import is_name, is_word
from p2pnet.worker.text.tool_calls.schemas import parameters_of

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""At most one space, and that where models write one: small models never stop where any space is allowed. Set for every
schema, since the patterns of a stranger's own would be compiled."""


@dataclass(frozen=True)
class JsonPart:
    """JSON that this schema accepts. The schema is JSON text."""

    schema: str


@dataclass(frozen=True)
class TextPart:
    """Any text up to the first `end`, and that too."""

    end: str


@dataclass(frozen=True)
class OptionalPart:
    """All of these, or nothing."""

    parts: tuple[str | JsonPart | TextPart, ...]


Part = str | JsonPart | TextPart | OptionalPart


@dataclass(frozen=True)
class ForcedCalls:
    """An answer of nothing but calls: `prefix`, one of `calls`, more of them with `separator` between, `suffix`.

    `separator` None: one call only.
    """

    prefix: str
    calls: tuple[tuple[Part, ...], ...]
    separator: str | None
    suffix: str


def forced_calls(tool_format: ToolFormat, prompt: ChatPrompt) -> ForcedCalls:
    """The answer that `tool_choice` "required" asks for, of one named tool or of any.

    Raises InvalidRequest, also for schemas that would cost too much to compile.
    """
    layout = tool_format.layout
    tools = [tool for tool in prompt.tools if prompt.required_tool in (None, tool.name)]
    if not tools:
        raise InvalidRequest("tool_choice requires a tool that is not among the tools.", "tool_choice")
    return ForcedCalls(
        prefix=layout.begin,
        calls=tuple(_call(tool, layout) for tool in tools),
        separator=layout.between if prompt.parallel_tool_calls else None,
        suffix=layout.end,
    )


def lark(form: ForcedCalls, special_tokens: Mapping[str, int]) -> str:
    """The form as a grammar. `special_tokens` are ids of markers that are no text for the tokenizer."""
    rules = _Rules(special_tokens)
    calls = " | ".join(rules.add("call", rules.sequence(call)) for call in form.calls)
    more = "" if form.separator is None else f"({rules.literal(form.separator)} call)*"
    start = " ".join(filter(None, [rules.literal(form.prefix), "call", more, rules.literal(form.suffix)]))
    return "\n".join(["%llguidance {}", f"start: {start}", f"call: {calls}", *rules.lines, ""])


class _Rules:
    """Collects the named rules of a grammar."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self._special_tokens = special_tokens
        self._markers = re.compile("|".join(map(re.escape, special_tokens)) or "(?!)")
        self._numbers = count()
        self.lines: list[str] = []

    def add(self, kind: str, body: str, options: str = "") -> str:
        name = f"{kind}_{next(self._numbers)}"
        self.lines.append(f"{name}{options}: {body}")
        return name

    def sequence(self, parts: tuple[Part, ...]) -> str:
        return " ".join(filter(None, map(self._part, parts)))

    def literal(self, text: str) -> str:
        """The text, with its special tokens as tokens."""
        pieces, end = [], 0
        for marker in self._markers.finditer(text):
            pieces += [_quoted(text[end : marker.start()]), f"<[{self._special_tokens[marker.group()]}]>"]
            end = marker.end()
        return " ".join(filter(None, [*pieces, _quoted(text[end:])]))

    def _part(self, part: Part) -> str:
        match part:
            case str():
                return self.literal(part)
            case JsonPart(schema):
                return self.add("json", f"%json {json.dumps({**json.loads(schema), 'x-guidance': _JSON_STYLE})}")
            case TextPart(end):
                return self.add("text", "/(?s:.*)/", f"[suffix={_quoted(end)}]")
            case OptionalPart(parts):
                return f"({self.sequence(parts)})?"


def _call(tool: Tool, layout: Layout) -> tuple[Part, ...]:
    schema = parameters_of(tool)
    parse_schema(tool.parameters, "tools")
    is_quoted = layout.before.endswith('"')
    if not (is_name(tool.name) if is_quoted else is_word(tool.name)):
        raise InvalidRequest(f"This model cannot call a tool named {tool.name!r}.", "tools")
    name = json.dumps(tool.name, ensure_ascii=False)[1:-1] if is_quoted else tool.name
    head = f"{layout.before}{name}{layout.after_name}"
    if layout.has_parameter_tags:
        return (head, *_tagged_parameters(schema), layout.after)
    return (head, JsonPart(json.dumps({"type": "object", **schema})), layout.after)


def _tagged_parameters(schema: Mapping[str, Any]) -> tuple[Part, ...]:
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return ()
    needed = required if isinstance(required, list) else []
    parts: list[Part] = []
    for key, value in properties.items():
        if not is_word(key):
            raise InvalidRequest(f"This model cannot give a parameter named {key!r}.", "tools")
        parameter = _tagged_parameter(key, value if isinstance(value, dict) else {}, schema)
        parts += parameter if key in needed else (OptionalPart(parameter),)
    return tuple(parts)


def _tagged_parameter(
    key: str, value: Mapping[str, Any], root: Mapping[str, Any]
) -> tuple[str | JsonPart | TextPart, ...]:
    begin, end = f"{PARAMETER}{key}>\n", f"\n{PARAMETER_END}\n"
    if is_text(value):
        return (begin, TextPart(end))
    definitions = {name: root[name] for name in ("$defs", "definitions") if name in root}
    return (begin, JsonPart(json.dumps({**definitions, **value})), end)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
