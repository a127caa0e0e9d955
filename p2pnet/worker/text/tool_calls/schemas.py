"""Reads a tool's parameters: a JSON schema that came as text from a stranger. Knows nothing of formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from p2pnet.answer_forms import MAX_SCHEMA_CHARS
from p2pnet.errors import InvalidRequest
from p2pnet.messages import Tool

MAX_SCHEMA_DEPTH = 100
"""Far more than anyone writes, and far less than what Python's own recursion bears: templates walk through it."""

Properties = Mapping[str, Mapping[str, Any]]
"""Of each parameter, its JSON schema."""


def parameters_of(tool: Tool) -> dict[str, Any]:
    """A tool's parameters as a schema. Raises InvalidRequest for what is no JSON object, or not of a sane size."""
    if len(tool.parameters) > MAX_SCHEMA_CHARS:
        raise InvalidRequest(f"The parameters of the tool {tool.name!r} are too long.", "tools")
    try:
        schema = msgspec.json.decode(tool.parameters, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The parameters of the tool {tool.name!r} are not a JSON object.", "tools") from error
    if _is_deep(schema):
        raise InvalidRequest(f"The parameters of the tool {tool.name!r} are nested too deeply.", "tools")
    return schema


def properties_of(tool: Tool) -> Properties:
    """The schemas of a tool's parameters by name, as far as they are plain. Raises InvalidRequest."""
    properties = parameters_of(tool).get("properties")
    if not isinstance(properties, dict):
        return {}
    return {name: schema if isinstance(schema, dict) else {} for name, schema in properties.items()}


def _is_deep(schema: dict[str, Any]) -> bool:
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
        ]
    return bool(level)
