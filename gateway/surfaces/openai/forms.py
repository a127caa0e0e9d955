"""Translates the ways to ask for the form of an answer into GenerateRequest's `response_format`.

Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from gateway.http.bodies import Body, json_text
from p2pnet.answer_forms import MAX_PATTERN_CHARS, MAX_SCHEMA_CHARS
from p2pnet.errors import InvalidRequest


class Schema(Body):
    name: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class Format(Schema):
    """Chat has the schema inside, responses have its fields here. An answer fits it whether `strict` or not."""

    type: str
    json_schema: Schema | None = None


def one_form(**forms: dict[str, Any] | None) -> dict[str, Any] | None:
    """The one that is asked for, of those by field; None where none is. Raises InvalidRequest."""
    asked = [(field, form) for field, form in forms.items() if form is not None]
    if len(asked) > 1:
        raise InvalidRequest(f"{asked[1][0]}: goes with no {asked[0][0]}; send one of them", asked[1][0])
    return asked[0][1] if asked else None


def format_field(given: Format | None, param: str) -> dict[str, Any] | None:
    """GenerateRequest's `response_format`. Raises InvalidRequest."""
    if given is None or given.type == "text":
        return None
    if given.type == "json_object":
        return {"type": "json"} if given.schema_ is None else of_schema(given.schema_, param)
    if given.type != "json_schema":
        raise InvalidRequest(f"{param}.type: text, json_object or json_schema", f"{param}.type")
    if given.json_schema is None and given.name is None and given.schema_ is None:
        raise InvalidRequest(f"{param}: there is no schema", param)
    schema = (given.json_schema or given).schema_
    return {"type": "json"} if schema is None else of_schema(schema, param)


def of_schema(schema: dict[str, Any] | str | None, param: str) -> dict[str, Any] | None:
    """JSON that a schema accepts, given as a document or as its text. Raises InvalidRequest."""
    if schema is None:
        return None
    text = schema if isinstance(schema, str) else json_text(schema, param)
    if not 2 <= len(text) <= MAX_SCHEMA_CHARS:
        raise InvalidRequest(f"{param}: a schema has 2 to {MAX_SCHEMA_CHARS} characters", param)
    return {"type": "json_schema", "schema": text}


def of_regex(pattern: str | None, param: str) -> dict[str, Any] | None:
    """Text that matches this as a whole. Raises InvalidRequest."""
    if not pattern:
        return None
    if len(pattern) > MAX_PATTERN_CHARS:
        raise InvalidRequest(f"{param}: a regular expression has at most {MAX_PATTERN_CHARS} characters", param)
    return {"type": "regex", "pattern": pattern}


def of_choices(choices: list[str] | None, param: str) -> dict[str, Any] | None:
    """One of these texts. Raises InvalidRequest."""
    return of_regex("|".join(map(re.escape, choices)), param) if choices else None
