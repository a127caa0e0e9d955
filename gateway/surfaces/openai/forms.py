"""Translates the ways to ask for the form of an answer into GenerateRequest's `response_format`.

Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_SCHEMA_CHARS


class Schema(Body):
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class Format(Schema):
    """Chat has the schema inside, responses have its fields here. An answer fits it whether `strict` or not."""

    type: str
    json_schema: Schema | None = None


def form_of(given: Format | None, schema: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """What `response_format` or a bare `json_schema` asks for. Raises InvalidRequest."""
    form = format_field(given, "response_format")
    if schema is None:
        return form
    if form is not None:
        raise InvalidRequest("json_schema: goes with no response_format; send one of them", "json_schema")
    return _of_schema(schema, "json_schema")


def format_field(given: Format | None, param: str) -> dict[str, Any] | None:
    """GenerateRequest's `response_format`. Raises InvalidRequest."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json"} if given.schema_ is None else _of_schema(given.schema_, param)
    if given.type != "json_schema":
        raise InvalidRequest(f"{param}.type: text, json_object or json_schema", f"{param}.type")
    if given.json_schema is None and given.name is None and given.schema_ is None:
        raise InvalidRequest(f"{param}: there is no schema", param)
    schema = (given.json_schema or given).schema_
    return {"type": "json"} if schema is None else _of_schema(schema, param)


def _of_schema(schema: dict[str, Any] | str, param: str) -> dict[str, Any]:
    text = schema if isinstance(schema, str) else json_text(schema, param)
    if not 2 <= len(text) <= MAX_SCHEMA_CHARS:
        raise InvalidRequest(f"{param}: a schema has 2 to {MAX_SCHEMA_CHARS} characters", param)
    return {"type": "json_schema", "schema": text}
