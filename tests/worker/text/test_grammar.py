"""Answers that must have a form: whatever a model prefers, what it says to the end is JSON that the schema accepts."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from time import perf_counter
from typing import Any

import jsonschema
import pytest
import torch
from llguidance import LLMatcher

from p2pnet.answer_forms import MAX_SCHEMA_CHARS
from p2pnet.display.printable import MAX_MESSAGE_CHARS
from p2pnet.errors import FeatureMissing, InvalidRequest, WorkerFailed
from p2pnet.worker.text.constraint import Constraint
from p2pnet.worker.text.grammar import GrammarCompiler, json_rule
from p2pnet.worker.text.schema import KNOWN_FORMATS, MAX_COMBINED_PATTERNS, MAX_NESTING, MAX_PATTERN_PROPERTIES
from p2pnet.worker.text.vocabulary import Vocabulary
from tests.worker.text.test_vocabulary import TOKENIZERS, VOCABULARIES, word_piece_tokenizer

WALKS = 6
MAX_WALK_TOKENS = 250
SLOWEST_COMPILE_S = 5.0
"""Five times what the slowest one here takes on a busy machine."""


END_TOKENS = {
    "byte level": ("<eos>", "<|user|>"),
    "llama": ("<eos>", "<|user|>"),
    "tiny": ("<|im_end|>", "<|endoftext|>"),
}
"""Two of them, as chat models have."""


def end_ids(name: str) -> frozenset[int]:
    return frozenset(VOCABULARIES[name].control_tokens[token] for token in END_TOKENS[name])


COMPILERS = {name: GrammarCompiler(VOCABULARIES[name], end_ids(name)) for name in ("byte level", "llama", "tiny")}
NAMES = tuple(COMPILERS)
BYTE_LEVEL = COMPILERS["byte level"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ids_of(mask: torch.Tensor) -> list[int]:
    ids: list[int] = mask.nonzero()[:, 0].tolist()
    return ids


def said(name: str, ids: Iterable[int]) -> bytes:
    vocabulary = VOCABULARIES[name]
    return b"".join(vocabulary.token_bytes(token_id) for token_id in ids if token_id not in end_ids(name))


@cache
def text_tokens(name: str) -> dict[bytes, int]:
    vocabulary = VOCABULARIES[name]
    ids = (token_id for token_id in range(vocabulary.size) if token_id not in vocabulary.control_ids)
    return {vocabulary.token_bytes(token_id): token_id for token_id in ids}


def ids_saying(name: str, text: str) -> Iterator[int]:
    """Tokens that say this text, the longest first."""
    known, rest = text_tokens(name), text.encode()
    while rest:
        length = next(length for length in range(len(rest), 0, -1) if rest[:length] in known)
        yield known[rest[:length]]
        rest = rest[length:]


def after(name: str, constraint: Constraint, text: str) -> Constraint:
    """The constraint, having followed this text token by token."""
    for token_id in ids_saying(name, text):
        constraint.accept(token_id)
    return constraint


def next_texts(name: str, constraint: Constraint) -> set[bytes]:
    vocabulary = VOCABULARIES[name]
    return {vocabulary.token_bytes(token_id) for token_id in ids_of(constraint.allowed())}


def walk(name: str, constraint: Constraint, seed: int) -> list[int] | None:
    """A model that finds all ids equally likely, and those that close something a bit likelier, or answers never end.
    None when it does not come to an end. Checks on the way what holds for every mask."""
    chance = random.Random(seed)
    vocabulary = VOCABULARIES[name]
    ends, control_ids = end_ids(name), vocabulary.control_ids
    ids: list[int] = []
    for _ in range(MAX_WALK_TOKENS):
        mask = constraint.allowed()
        assert mask.dtype == torch.bool
        assert mask.shape == (vocabulary.size,)
        allowed = ids_of(mask)
        assert allowed
        assert not (control_ids - ends).intersection(allowed), "a control token within the text"
        assert ends.intersection(allowed) in (ends, frozenset()), "some end tokens, but not all of them"
        assert all(vocabulary.token_bytes(token_id) for token_id in allowed), "an id that says nothing"
        assert constraint.is_complete == (set(allowed) == ends)
        closing = [i for i in allowed if i in ends or vocabulary.token_bytes(i)[-1:] in (b'"', b"}", b"]")]
        ids.append(chance.choice(closing if closing and chance.random() < 0.4 else allowed))
        constraint.accept(ids[-1])
        if ids[-1] in ends:
            assert constraint.is_complete
            assert set(ids_of(constraint.allowed())) == ends
            return ids
    return None


def complete_answers(name: str, factory: Callable[[], Constraint]) -> list[Any]:
    walks = (walk(name, factory(), seed) for seed in range(WALKS))
    return [json.loads(said(name, ids)) for ids in walks if ids is not None]


SCHEMAS: dict[str, Any] = {
    "nested": {
        "type": "object",
        "properties": {
            "person": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0}},
                "required": ["name", "age"],
                "additionalProperties": False,
            }
        },
        "required": ["person"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", 1, 2.5, None, True, {"a": [1]}, "gr\u00fcn"]},
    "const": {"const": {"kind": "fixed", "list": [1, "two", None]}},
    "array with bounds": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "anyOf": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "array", "items": {"type": "null"}}]},
    "oneOf": {"oneOf": [{"type": "integer"}, {"type": "null"}, {"type": "string", "maxLength": 2}]},
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
    "$ref to a tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1},
                },
                "required": ["value", "children"],
                "additionalProperties": False,
            }
        },
    },
    "optional properties": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "a map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": -5, "maximum": 5}},
    "patternProperties": {
        "type": "object",
        "patternProperties": {"^x-[a-z]{1,3}$": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "keywords that narrow nothing": {
        "type": "object",
        "properties": {
            "uniqueItems": {"type": "array", "items": {"type": "null"}, "maxItems": 1, "uniqueItems": False},
            "format": {"type": "string", "format": "password", "maxLength": 2},
            "propertyNames": {
                "type": "object",
                "propertyNames": {"type": "string", "title": "A name"},
                "additionalProperties": {"type": "null"},
                "maxProperties": 1,
            },
            "not": {"enum": [{"format": "password", "uniqueItems": False}], "not": False, "if": {"type": "null"}},
        },
        "required": ["uniqueItems", "format", "propertyNames", "not"],
        "additionalProperties": False,
        "dependentRequired": {},
        "unevaluatedProperties": True,
        "minContains": 2,
        "then": {"type": "null"},
    },
    "integer range": {"type": "integer", "minimum": -17, "exclusiveMaximum": 1234},
    "number range": {"type": "number", "minimum": 0.25, "maximum": 99.5},
    "multipleOf": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}(x|\u00e9)?$"},
    "lengths": {"type": "string", "minLength": 2, "maxLength": 5},
    "formats": {
        "type": "object",
        "properties": {"address": {"type": "string", "format": "ipv4"}, "id": {"type": "string", "format": "uuid"}},
        "required": ["address", "id"],
        "additionalProperties": False,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "boolean"}, {"type": "integer"}],
        "items": False,
        "minItems": 2,
    },
    "several types": {"type": ["null", "boolean", "integer"]},
    "unicode": {
        "type": "object",
        "properties": {"\u540d\u524d": {"enum": ["\u592a\u90ce", "\U0001f600", 'a"b\\c\n\u2028']}},
        "required": ["\u540d\u524d"],
        "additionalProperties": False,
    },
    "names of control tokens": {"enum": ["<eos>", "<|im_end|>", "</s> <|assistant|>"]},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_to_the_end_is_what_the_schema_accepts(name: str, schema: Any) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    answers = complete_answers(name, COMPILERS[name].json_schema(json.dumps(schema)))
    assert len(answers) >= WALKS // 2
    for answer in answers:
        validator.validate(answer)


@pytest.mark.parametrize("name", NAMES)
def test_json_mode_is_any_object(name: str) -> None:
    answers = complete_answers(name, COMPILERS[name].json_object())
    assert answers
    assert all(isinstance(answer, dict) for answer in answers)


ACCEPTED = [
    ("an empty object", "{}"),
    ("compact", '{"a":[1,2,{"b":null}],"c":"d"}'),
    ("as json.dumps writes it", json.dumps({"a": [1, -2.5e10, True], "b": {"c": '\u00e9\n\t"'}}, ensure_ascii=False)),
    ("indented", json.dumps({"a": [1, {"b": ["c"]}], "d": {}}, indent=2)),
    ("deep", '{"a":' * 40 + "1" + "}" * 40),
    ("an emoji", '{"\U0001f600": "\U0001f468\u200d\U0001f469"}'),
]


@pytest.mark.parametrize("text", [case[1] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
@pytest.mark.parametrize("name", NAMES)
def test_json_mode_takes_json_as_models_write_it(name: str, text: str) -> None:
    constraint = after(name, COMPILERS[name].json_object()(), text)
    assert constraint.is_complete
    assert set(ids_of(constraint.allowed())) == end_ids(name)


REFUSED = [
    ("an array", "["),
    ("a space first", " {"),
    ("a comma first", "{,"),
    ("a word", '{"a": nil'),
    ("a leading zero", '{"a": 01'),
    ("a raw newline in a string", '{"a": "\n'),
    ("text after the end", "{} "),
]


@pytest.mark.parametrize("text", [case[1] for case in REFUSED], ids=[case[0] for case in REFUSED])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_json_cannot_be_gone_on_with(name: str, text: str) -> None:
    constraint = COMPILERS[name].json_object()()
    with pytest.raises(InvalidRequest) as refused:
        after(name, constraint, text)
    assert refused.value.param == "resume_tokens"


@pytest.mark.parametrize("text", ["{", '{"a":', '{"a":1,', '{"a":['])
@pytest.mark.parametrize("name", NAMES)
def test_whitespace_comes_to_an_end(name: str, text: str) -> None:
    constraint = after(name, COMPILERS[name].json_object()(), text)
    vocabulary = VOCABULARIES[name]
    for _ in range(64):
        blank = [i for i in ids_of(constraint.allowed()) if not vocabulary.token_bytes(i).strip()]
        if not blank:
            return
        constraint.accept(min(blank, key=lambda token_id: (vocabulary.token_bytes(token_id) == b" ", token_id)))
    pytest.fail("still going on after 64 tokens")


@pytest.mark.parametrize("name", NAMES)
def test_end_tokens_are_allowed_just_where_the_form_may_end(name: str) -> None:
    constraint = COMPILERS[name].json_schema('{"type": "integer", "minimum": -99, "maximum": 99}')()
    ends = end_ids(name)
    for text, may_end, is_complete in (("-", False, False), ("1", True, False), ("2", True, True)):
        after(name, constraint, text)
        assert ends.intersection(ids_of(constraint.allowed())) == (ends if may_end else frozenset())
        assert constraint.is_complete == is_complete


@pytest.mark.parametrize("end_id", sorted(end_ids("byte level")))
def test_any_end_token_ends_an_answer(end_id: int) -> None:
    constraint = after("byte level", BYTE_LEVEL.json_schema('{"type": "integer"}')(), "12")
    constraint.accept(end_id)
    assert constraint.is_complete
    assert set(ids_of(constraint.allowed())) == end_ids("byte level")
    constraint.accept(end_id)
    with pytest.raises(InvalidRequest):
        after("byte level", constraint, "3")


def test_an_end_token_before_the_form_is_complete_is_refused() -> None:
    constraint = after("byte level", BYTE_LEVEL.json_object()(), '{"a":')
    with pytest.raises(InvalidRequest):
        constraint.accept(min(end_ids("byte level")))


def test_without_end_tokens_a_complete_form_has_nothing_to_allow() -> None:
    constraint = after("byte level", GrammarCompiler(VOCABULARIES["byte level"], ()).json_object()(), "{}")
    assert constraint.is_complete
    with pytest.raises(WorkerFailed):
        constraint.allowed()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokens_give_the_same_masks(name: str) -> None:
    """Asked for each time, not at all, or from another compiler: another worker goes on as this one would have."""
    schema = json.dumps(SCHEMAS["nested"])
    other = GrammarCompiler(VOCABULARIES[name], end_ids(name)).json_schema(schema)
    factory = COMPILERS[name].json_schema(schema)
    ids = next(ids for seed in range(WALKS) if (ids := walk(name, factory(), seed)) is not None)
    first, second = factory(), other()
    for position, token_id in enumerate(ids):
        resumed = other()
        for earlier in ids[:position]:
            resumed.accept(earlier)
        expected = first.allowed()
        assert torch.equal(expected, second.allowed())
        assert torch.equal(expected, resumed.allowed())
        first.accept(token_id)
        second.accept(token_id)


def test_constraints_of_one_factory_do_not_know_one_another() -> None:
    factory = BYTE_LEVEL.json_schema('{"enum": ["ab", "cd"]}')
    first, second = after("byte level", factory(), '"a'), after("byte level", factory(), '"c')
    assert next_texts("byte level", first) == {b"b"}
    assert next_texts("byte level", second) == {b"d"}
    with pytest.raises(InvalidRequest):
        after("byte level", first, "d")
    assert after("byte level", first, 'b"').is_complete, "a token that was refused left no trace"


def test_a_mask_is_not_changed_by_what_comes_next() -> None:
    constraint = BYTE_LEVEL.json_object()()
    mask = constraint.allowed()
    before = mask.clone()
    after("byte level", constraint, "{")
    constraint.allowed()
    assert torch.equal(mask, before)


def nested(levels: int, leaf: Any, around: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        leaf = around(leaf)
    return leaf


def in_array(schema: Any) -> Any:
    return {"type": "array", "items": schema}


HOSTILE: list[tuple[str, Any, str]] = [
    ("not JSON", "{", "not valid JSON"),
    ("NaN", '{"minimum": NaN}', "not valid JSON"),
    ("half a surrogate pair", '{"const": "\\ud800"}', "not valid JSON"),
    ("a number out of range", '{"minimum": 1e999}', ""),
    ("an array", "[1]", "must be a JSON object"),
    ("false", "false", "must be a JSON object"),
    ("brackets only", "[" * 30_000 + "]" * 30_000, ""),
    ("too deep", nested(MAX_NESTING, {}, in_array), "nested deeper"),
    ("an unknown type", {"type": "strng"}, "Invalid type"),
    ("a long unknown type", {"type": "\u00e9" * 1000}, "Invalid type"),
    ("properties that are none", {"type": "object", "properties": []}, "properties must be an object"),
    ("a remote reference", {"$ref": "https://example.com/schema.json"}, "example.com"),
    ("a file", {"$ref": "file:///etc/passwd"}, "does not fetch"),
    ("a dangling reference", {"$ref": "#/$defs/nowhere"}, ""),
    ("a reference to itself", {"$ref": "#"}, "Nothing that the model can say"),
    ("references in a circle", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, ""),
    ("a circle of allOf", {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {}]}}}, ""),
    ("not", {"not": {"type": "string"}}, "not"),
    ("if", {"if": {"type": "string"}, "then": {"maxLength": 3}}, "if"),
    ("contains", {"type": "array", "contains": {"type": "string"}}, "contains"),
    ("uniqueItems", {"type": "array", "uniqueItems": True}, "uniqueItems"),
    ("propertyNames", {"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames"),
    ("dependentRequired", {"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ("unevaluatedProperties", {"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    ("oneOf that overlaps", {"oneOf": [{"minimum": 1, "type": "integer"}, {"type": "integer"}]}, "oneOf"),
    ("two types at once", {"type": "string", "enum": [1]}, "Unsatisfiable"),
    ("an empty range", {"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable"),
    ("an empty enum", {"enum": []}, "Unsatisfiable"),
    ("a pattern too short for its length", {"type": "string", "pattern": "^a$", "minLength": 4}, "Unsatisfiable"),
    ("a pattern that is none", {"type": "string", "pattern": "("}, "regex"),
    ("a look-ahead", {"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
    ("a back reference", {"type": "string", "pattern": r"(a)\1"}, "backreferences"),
    ("a deep pattern", {"type": "string", "pattern": "(" * 25_000 + "a" + ")" * 25_000}, "regex"),
    ("many optional parts", {"type": "string", "pattern": "^" + "a?" * 3000 + "a" * 3000 + "$"}, "too many"),
    (
        "patterns that must all match",
        {"allOf": [{"type": "string", "pattern": f"x{i}y"} for i in range(MAX_COMBINED_PATTERNS + 1)]},
        "different patterns",
    ),
    (
        "the slowest patterns that may be combined",
        {
            "allOf": [
                {"type": "string", "pattern": f"(\\p{{L}}\\w+|[^a-f]{{1,9}}x){i}.{{3,50}}(y|z{i}+)"}
                for i in range(MAX_COMBINED_PATTERNS)
            ]
        },
        "Unable to determine",
    ),
    (
        "patterns along a chain of references",
        {
            "$ref": "#/$defs/a0",
            "$defs": {
                f"a{i}": {"type": "string", "pattern": f"x{i}y", "anyOf": [{"$ref": f"#/$defs/a{i + 1}"}]}
                for i in range(30)
            }
            | {"a30": {"type": "string"}},
        },
        "different patterns",
    ),
    (
        "many patternProperties",
        {"type": "object", "patternProperties": {f"^{i}$": {} for i in range(MAX_PATTERN_PROPERTIES + 1)}},
        "patternProperties",
    ),
    ("a large multipleOf", {"type": "integer", "multipleOf": 1_000_003}, "multipleOf"),
    ("a huge multipleOf", {"type": "number", "multipleOf": 1e300}, "multipleOf"),
    ("a tiny multipleOf", {"type": "number", "multipleOf": 1e-300}, "multipleOf"),
    (
        "several multipleOf",
        {"allOf": [{"type": "integer", "multipleOf": prime} for prime in (101, 103, 107)]},
        "multipleOf",
    ),
    ("a multipleOf of nothing", {"type": "integer", "multipleOf": 0}, ""),
    (
        "choices that multiply",
        {"allOf": [{"anyOf": [{"properties": {f"k{i}": {"type": t}}} for t in ("null", "string")]} for i in range(10)]},
        "too large",
    ),
    ("1500 optional properties", {"type": "object", "properties": {f"k{i}": {} for i in range(1500)}}, "items"),
]


def as_text(schema: Any) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


@pytest.mark.parametrize(("schema", "says"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_schema_that_cannot_be_had_is_refused_in_time(schema: Any, says: str) -> None:
    text = as_text(schema)
    assert len(text) <= MAX_SCHEMA_CHARS, "the gateway would not have let it through"
    began = perf_counter()
    with pytest.raises(InvalidRequest) as refused:
        BYTE_LEVEL.json_schema(text, "tools")
    assert perf_counter() - began < SLOWEST_COMPILE_S
    assert refused.value.param == "tools"
    assert says in refused.value.message
    assert len(refused.value.message) < MAX_MESSAGE_CHARS + 100
    assert refused.value.message.isprintable()


COSTLY: dict[str, Any] = {
    "almost too deep": nested(MAX_NESTING // 2 - 2, {"type": "null"}, in_array),
    "a large enum": {"enum": [f"value number {i}" for i in range(2500)]},
    "a long constant": {"const": "x" * 60_000},
    "an endless array": {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000},
    "a long string": {"type": "string", "minLength": 10_000, "maxLength": 20_000},
    "400 properties": {
        "type": "object",
        "properties": {f"property{i}": {"type": ["string", "null"], "maxLength": 50} for i in range(400)},
        "required": [f"property{i}" for i in range(400)],
        "additionalProperties": False,
    },
    "doubling references": {
        "$ref": "#/$defs/a0",
        "$defs": {f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(25)} | {"a25": {}},
    },
    "nested repetitions": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
    "a pattern with many states": {"type": "string", "pattern": "^(a|b)*a(a|b){40}$"},
    "200 patterns, each alone": {
        "type": "object",
        "properties": {f"k{i}": {"type": "string", "pattern": f"(\\p{{L}}\\w+|[^a-f]{{1,9}}x){i}"} for i in range(200)},
        "required": [f"k{i}" for i in range(200)],
    },
    "the largest multipleOf": {"type": "integer", "multipleOf": 9973, "minimum": -(10**17), "maximum": 10**17},
    "an object within itself for ever": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "another tool's options": {"type": "object", "x-guidance": {"whitespace_pattern": "((", "lenient": 5}},
    "anything": True,
}


@pytest.mark.parametrize("schema", COSTLY.values(), ids=COSTLY)
def test_a_costly_schema_is_followed_in_time(schema: Any) -> None:
    text = as_text(schema)
    assert len(text) <= MAX_SCHEMA_CHARS
    began = perf_counter()
    constraint = BYTE_LEVEL.json_schema(text)()
    chance = random.Random(0)
    for _ in range(20):
        constraint.accept(chance.choice(ids_of(constraint.allowed())))
    assert perf_counter() - began < SLOWEST_COMPILE_S


TOO_COMPLEX = json.dumps({"type": "string", "pattern": "^" + r"\p{L}{1,500}" * 20 + "$"})


@pytest.mark.parametrize("asks", [True, False], ids=["generated", "gone on with"])
def test_a_form_that_becomes_too_complex_fails_this_request_only(asks: bool) -> None:
    constraint = BYTE_LEVEL.json_schema(TOO_COMPLEX)()
    with pytest.raises(WorkerFailed, match="cannot be followed"):
        for token_id in ids_saying("byte level", '"' + "Peers" * 200):
            if asks:
                constraint.allowed()
            constraint.accept(token_id)
    assert b"a" in next_texts("byte level", after("byte level", BYTE_LEVEL.json_schema(TOO_COMPLEX)(), '"'))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ""),
        ("start: (", "Expected"),
        ("start: missing", "unknown name"),
        ("other: /a/", "start"),
        ("start: <nonsense>", "special token"),
        ("start: " + "(" * 5000 + '"a"' + ")" * 5000, "nested"),
    ],
)
def test_a_grammar_that_cannot_be_had_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        BYTE_LEVEL.grammar(text, "tools")
    assert says in refused.value.message
    assert refused.value.param == "tools"


def test_a_tool_call_in_its_envelope() -> None:
    compiler, vocabulary = COMPILERS["tiny"], VOCABULARIES["tiny"]
    call = {"type": "object", "properties": {"name": {"const": "get_time"}}, "required": ["name"]}
    start, end = compiler.literal("<|im_start|><tool_call>\n"), compiler.literal("\n</tool_call>")
    constraint = compiler.grammar(f"start: {start} call {end}\ncall: {json_rule(json.dumps(call), 'tools')}", "tools")()
    marker = vocabulary.control_tokens["<|im_start|>"]
    assert ids_of(constraint.allowed()) == [marker]
    constraint.accept(marker)
    after("tiny", constraint, '<tool_call>\n{"name": "get_time"}\n</tool_call>')
    assert constraint.is_complete


@pytest.mark.parametrize("text", ["", "a", '"\\\n\u2028', "{}<[1]>", "\u00e9\U0001f600", "/x/ | %json"])
def test_a_literal_is_just_its_text(text: str) -> None:
    factory = BYTE_LEVEL.grammar(f'start: "!" {BYTE_LEVEL.literal(text)} "!"')
    assert after("byte level", factory(), f"!{text}!").is_complete


def test_a_tokenizer_whose_tokens_cannot_be_followed() -> None:
    tokenizer = word_piece_tokenizer()
    with pytest.raises(FeatureMissing):
        GrammarCompiler(Vocabulary(tokenizer, len(tokenizer)), (0,)).json_object()


def test_a_vocabulary_that_cannot_say_it() -> None:
    """The model would have no token to go on with: known before it begins."""
    tokenizer = TOKENIZERS["byte level"]
    compiler = GrammarCompiler(Vocabulary(tokenizer, 8), end_ids("byte level"))
    with pytest.raises(InvalidRequest):
        compiler.json_object()


@pytest.mark.parametrize("name", [*sorted(KNOWN_FORMATS), "password", "idn-email", "uri-reference", "regex", "int32"])
def test_the_formats_that_are_known_are_those_of_the_compiler(name: str) -> None:
    """Any other is taken out of a schema: none may be that the compiler would enforce."""
    grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "format": name}))
    assert LLMatcher.validate_grammar(grammar).startswith("Unknown format") is (name not in KNOWN_FORMATS)


REGEXES = {
    "choices": ("|".join(map(re.escape, ["yes", "n.o", "may be", "a/b", "[x]", "\u00e4-1"])), "may be"),
    "a slash": ("a/b", "a/b"),
    "a slash that is escaped already": (r"a\/b", "a/b"),
    "a backslash before a slash": (r"a\\/b", "a\\/b"),
    "a line break": ("a\nb", "a\nb"),
    "counted": (r"\d{4}-\d{2}", "2026-11"),
}


@pytest.mark.parametrize(("pattern", "text"), REGEXES.values(), ids=REGEXES)
def test_a_regular_expression_is_matched_as_a_whole(pattern: str, text: str) -> None:
    constraint = after("byte level", BYTE_LEVEL.regex(pattern)(), text)
    assert constraint.is_complete
    with pytest.raises(InvalidRequest):
        after("byte level", BYTE_LEVEL.regex(pattern)(), "!")


@pytest.mark.parametrize("pattern", ["(", "a\\", r"\bword", "[z-a]", "/\nstart: a", "(a{9999}){9999}"])
def test_a_regular_expression_that_cannot_be_had_is_refused_in_time(pattern: str) -> None:
    began_s = perf_counter()
    try:
        constraint = BYTE_LEVEL.regex(pattern)()
    except InvalidRequest as refused:
        assert refused.param == "response_format" and len(refused.message) < 500
    else:
        assert not constraint.is_complete
    assert perf_counter() - began_s < SLOWEST_COMPILE_S
