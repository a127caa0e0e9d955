"""Checks a stranger's JSON schema before a grammar is made of it: some would cost too much. Takes out of it what
narrows nothing, since the grammar's compiler refuses some keywords by their name alone.

The grammar's compiler bounds most of what it does, but not these, each measured: the states of `multipleOf` (8 s and
280 MB for 1000003), the patterns that one string has to match together (twice the time for each one more, 3 s at 20)
and the pairs of `patternProperties` (over 40 s for 1500). Knows nothing of grammars.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from math import lcm
from typing import Any

import msgspec

from p2pnet.errors import InvalidRequest

MAX_NESTING = 64
"""Levels of a schema. OpenAI accepts 10 of objects; the compiler reads 128 of JSON."""

MAX_COMBINED_PATTERNS = 8
"""Distinct patterns and formats in a schema that can demand several of them of one string."""

MAX_PATTERN_PROPERTIES = 32
"""In a whole schema. Each is checked against each."""

MAX_MULTIPLE = 10_000
"""The least common multiple of all `multipleOf` in a schema, in units of their last decimal: a state for each."""

_MULTIPLE_DIGITS = 16
"""Before or after the point, of one `multipleOf`: about as many as a JSON number holds."""

_COMBINING = frozenset({"allOf", "anyOf", "oneOf", "$ref"})
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"$comment", "$defs", "definitions", "$schema", "$id", "$anchor"}
)
"""What may stand beside a reference or a choice without narrowing it."""

KNOWN_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown"}
)
"""Those that the compiler enforces. Of any other a schema says what a text means, and narrows nothing (draft 2020-12,
validation, 7.2.3)."""

_WITH_SCHEMA = frozenset(
    {"additionalProperties", "items", "additionalItems", "unevaluatedItems", "unevaluatedProperties"}
    | {"contains", "propertyNames", "not", "if", "then", "else"}
)
_WITH_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_WITH_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
"""Keywords whose value is a schema, a list of them, or has them under names of the schema's own."""

Schema = dict[str, Any]


def parse_schema(text: str, param: str) -> Schema:
    """The schema in this text, without keywords that narrow nothing. Raises InvalidRequest, naming `param`, when it is
    no schema or costs too much to compile."""
    try:
        schema = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise InvalidRequest("The JSON schema is not valid JSON.", param) from error
    if schema is True:
        return {}
    if not isinstance(schema, dict):
        raise InvalidRequest("The JSON schema must be a JSON object.", param)
    for objection in _objections(schema):
        raise InvalidRequest(f"The JSON schema {objection}.", param)
    return _narrowing(schema)


def _narrowing(schema: Schema) -> Schema:
    kept = {keyword: _narrowing_within(keyword, value) for keyword, value in schema.items()}
    return {keyword: value for keyword, value in kept.items() if not _is_idle(keyword, value, kept)}


def _narrowing_within(keyword: str, value: Any) -> Any:
    if isinstance(value, dict):
        if keyword in _WITH_SCHEMA:
            return _narrowing(value)
        if keyword in _WITH_NAMED_SCHEMAS:
            return {name: _narrowing(each) if isinstance(each, dict) else each for name, each in value.items()}
    if isinstance(value, list) and keyword in _WITH_SCHEMAS:
        return [_narrowing(each) if isinstance(each, dict) else each for each in value]
    return value


def _is_idle(keyword: str, value: Any, schema: Schema) -> bool:
    """Whether the schema means the same without this keyword."""
    match keyword:
        case "uniqueItems":
            return value is False
        case "format":
            return isinstance(value, str) and value not in KNOWN_FORMATS
        case "propertyNames":
            return _takes_all(value) or (isinstance(value, dict) and _takes_all(_besides_string(value)))
        case "unevaluatedItems" | "unevaluatedProperties":
            return _takes_all(value)
        case "dependentRequired" | "dependentSchemas" | "dependencies":
            return isinstance(value, dict) and not value
        case "not":
            return value is False
        case "if":
            return "then" not in schema and "else" not in schema
        case "then" | "else":
            return "if" not in schema
        case "minContains" | "maxContains":
            return "contains" not in schema
    return False


def _besides_string(schema: Schema) -> Schema:
    """What the schema says besides that the value is a string, as every name of a property is."""
    return {keyword: value for keyword, value in schema.items() if (keyword, value) != ("type", "string")}


def _takes_all(schema: Any) -> bool:
    return schema is True or (isinstance(schema, dict) and schema.keys() <= _ANNOTATIONS)


def _objections(schema: Schema) -> Iterator[str]:
    if _is_deeper_than(schema, MAX_NESTING):
        yield f"is nested deeper than {MAX_NESTING} levels"
        return
    objects = list(_objects(schema))
    if _can_combine(objects) and len(_patterns(objects)) > MAX_COMBINED_PATTERNS:
        yield (
            f"has more than {MAX_COMBINED_PATTERNS} different patterns and formats beside allOf, "
            "or beside anyOf, oneOf or $ref with further keywords"
        )
    if sum(len(found) for found in _values(objects, "patternProperties", dict)) > MAX_PATTERN_PROPERTIES:
        yield f"has more than {MAX_PATTERN_PROPERTIES} patternProperties"
    if _common_multiple(objects) > MAX_MULTIPLE:
        yield f"has a multipleOf, or several together, beyond {MAX_MULTIPLE} units"


def _is_deeper_than(value: Any, levels: int) -> bool:
    """Whether the value is nested deeper than this. Done without recursion, which a hostile text could exhaust."""
    layer = [value]
    for _ in range(levels):
        layer = [child for parent in layer for child in _children(parent)]
        if not layer:
            return False
    return True


def _objects(value: Any) -> Iterator[Schema]:
    """Every JSON object in it. Some are no schemas, such as an example's: those count too, to be on the safe side."""
    if isinstance(value, dict):
        yield value
    for child in _children(value):
        yield from _objects(child)


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _values(objects: list[Schema], keyword: str, kind: type) -> list[Any]:
    return [found[keyword] for found in objects if isinstance(found.get(keyword), kind)]


def _can_combine(objects: list[Schema]) -> bool:
    """Whether one value may have to satisfy several of the schema's parts."""
    return any(
        "allOf" in found or (_COMBINING & found.keys() and len(found.keys() - _ANNOTATIONS) > 1) for found in objects
    )


def _patterns(objects: list[Schema]) -> set[str]:
    return {*_values(objects, "pattern", str), *_values(objects, "format", str)}


def _common_multiple(objects: list[Schema]) -> int:
    """The common multiple of all `multipleOf`, counted in units of the last decimal of any."""
    numbers = [found["multipleOf"] for found in objects if type(found.get("multipleOf")) in (int, float)]
    multiples = [Decimal(str(number)) for number in numbers if number > 0]
    if any(abs(multiple.adjusted()) > _MULTIPLE_DIGITS for multiple in multiples):
        return MAX_MULTIPLE + 1
    scale = Decimal(10) ** max(0, *(-int(multiple.as_tuple().exponent) for multiple in multiples), 0)
    return lcm(*(int(multiple * scale) for multiple in multiples))
