"""The forms that an answer may be held to. They are a part of the wire's requests, so fields are only ever added.

Knows nothing of how an answer is held to one, nor of how dialects ask for it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_SCHEMA_CHARS = 1 << 16
"""A JSON schema of more text is not written by hand, and compiling it would hold up a worker."""

MAX_PATTERN_CHARS = 1 << 12
"""Of a regular expression: a longer one is a list, which a schema's `enum` says better."""


class JsonFormat(msgspec.Struct, frozen=True, tag="json"):
    """The text is one JSON object."""


class JsonSchemaFormat(msgspec.Struct, frozen=True, tag="json_schema"):
    """The text is JSON that this schema accepts. `schema` is the schema as JSON text."""

    schema: Annotated[str, Meta(min_length=2, max_length=MAX_SCHEMA_CHARS)]


class RegexFormat(msgspec.Struct, frozen=True, tag="regex"):
    """All of the text matches `pattern`, a regular expression as Rust's regex crate writes them."""

    pattern: Annotated[str, Meta(min_length=1, max_length=MAX_PATTERN_CHARS)]


ResponseFormat = JsonFormat | JsonSchemaFormat | RegexFormat
