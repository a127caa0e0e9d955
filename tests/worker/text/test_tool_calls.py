"""Calls come out of an answer as the model meant them, however it is cut; what is no call is text, and none is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass

import llguidance
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pnet.errors import InvalidRequest
from p2pnet.messages import MAX_TOOLS, ChatPrompt, Message, TextDelta, Tool, ToolCall, ToolCallDelta
from p2pnet.worker.text.tool_calls.forced_calls import forced_calls, lark
from p2pnet.worker.text.tool_calls.formats import (
    BARE_JSON,
    DEEPSEEK,
    DEEPSEEK_FENCED,
    FORMATS,
    HERMES,
    LLAMA,
    MISTRAL_LIST,
    MISTRAL_NAMED,
    QWEN_CODER,
    ToolFormat,
    find_format,
)
from p2pnet.worker.text.tool_calls.parameter_calls import as_json, is_text
from p2pnet.worker.text.tool_calls.parser import ToolCallParser, call_id
from p2pnet.worker.text.tool_calls.reader import TextOrCall
from tests.depth import examples

WEATHER = Tool(
    "get_weather",
    "The weather of some days.",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "at": {"$ref": "#/$defs/point"},
                "unit": {"enum": ["C", "F"]},
                "note": {"type": ["string", "null"]},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"point": {"type": "array", "items": {"type": "number"}, "maxItems": 2}},
        }
    ),
)
TIME = Tool("get_time")
PROMPT = ChatPrompt((Message("user", "Hello"),), (WEATHER, TIME))
SEED = 7

Call = tuple[str, str]
"""A name and its arguments."""


def said_of(tool_format: ToolFormat, pieces: Iterable[str], prompt: ChatPrompt = PROMPT) -> list[TextOrCall]:
    parser = ToolCallParser(tool_format, prompt, SEED)
    said = [piece for text in pieces for piece in parser.feed(text)]
    return said + parser.flush()


def joined(said: Iterable[TextOrCall]) -> list[str | Call]:
    """Texts, and calls where each began, as a client puts them together."""
    out: list[str | Call] = []
    places: dict[int, int] = {}
    for piece in said:
        if isinstance(piece, str):
            if out and isinstance(out[-1], str):
                out[-1] += piece
            else:
                out.append(piece)
            continue
        if piece.index not in places:
            assert piece.id is not None and piece.name is not None
            places[piece.index] = len(out)
            out.append((piece.name, ""))
        else:
            assert piece.id is piece.name is None
        call = out[places[piece.index]]
        assert isinstance(call, tuple)
        out[places[piece.index]] = (call[0], call[1] + piece.arguments)
    assert sorted(places) == list(range(len(places)))
    return out


def parsed(tool_format: ToolFormat, text: str, prompt: ChatPrompt = PROMPT) -> list[str | Call]:
    return joined(said_of(tool_format, [text], prompt))


@dataclass(frozen=True)
class Case:
    """What a model wrote, and what a client gets."""

    format: ToolFormat
    text: str
    expected: list[str | Call]


PARIS = ("get_weather", '{"city": "Paris"}')
CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
TAGGED = "<tool_call>\n" + CALL + "\n</tool_call>"
FUNCTION = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"

CASES = [
    # Hermes, Qwen 2.5, Qwen 3
    Case(HERMES, "Just text, 1 < 2 and <tool> too.", ["Just text, 1 < 2 and <tool> too."]),
    Case(HERMES, TAGGED, [PARIS]),
    Case(HERMES, "I look.\n" + TAGGED, ["I look.\n", PARIS]),
    Case(HERMES, f"{TAGGED}\n{TAGGED}\n", [PARIS, PARIS]),
    Case(HERMES, TAGGED + "\nDone.", [PARIS, "\nDone."]),
    Case(
        HERMES,
        "<think>\nWhich <tool_call>?\n</think>\n\n" + TAGGED,
        ["<think>\nWhich <tool_call>?\n</think>\n\n", PARIS],
    ),
    Case(HERMES, f"<tool_call>{CALL}</tool_call>", [PARIS]),
    Case(HERMES, '<tool_call>{"arguments": {"a": [1, {}]}, "name": "x"}</tool_call>', [("x", '{"a": [1, {}]}')]),
    Case(HERMES, '<tool_call>{"id": {"a": "}"}, "name": "x", "arguments": {}}</tool_call>', [("x", "{}")]),
    Case(HERMES, '<tool_call>{"name": "x", "more": [1], "arguments": {}}</tool_call>', [("x", "{}")]),
    Case(HERMES, '<tool_call>{"name": "x"}</tool_call>', [("x", "{}")]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": "{\\"a\\": 1}"}</tool_call>', [("x", '"{\\"a\\": 1}"')]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": null }</tool_call>', [("x", "null")]),
    Case(HERMES, '<tool_call>{"name": "caf\\u00e9", "arguments": {}}</tool_call>', [("café", "{}")]),
    Case(HERMES, '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>', [("no_such_tool", "{}")]),
    Case(
        HERMES,
        '<tool_call>{"name": "x", "arguments": {"a": "</tool_call> \\" <tool_call>{"}}</tool_call>',
        [("x", '{"a": "</tool_call> \\" <tool_call>{"}')],
    ),
    # Hermes, broken: braces that lack or are too many
    Case(HERMES, '<tool_call>{"name": "x", "arguments": {"a": 1}\n</tool_call> ok', [("x", '{"a": 1}'), " ok"]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": {"a": 1</tool_call> ok', [("x", '{"a": 1'), " ok"]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": {"a": 1}}}\n</tool_call>', [("x", '{"a": 1}'), "}\n"]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": {}, }</tool_call>', [("x", "{}")]),
    Case(HERMES, '<tool_call>{"name": "x", oops}</tool_call>', [("x", "{}"), ", oops}"]),
    Case(HERMES, f'<tool_call>{{"name": "x", "arguments": {{}}}}\n{TAGGED}', [("x", "{}"), PARIS]),
    # Hermes, no calls
    Case(HERMES, "<tool_call>{}</tool_call>", ["<tool_call>{}</tool_call>"]),
    Case(HERMES, "<tool_call>\nget_weather()\n</tool_call>", ["<tool_call>\nget_weather()\n</tool_call>"]),
    Case(HERMES, '<tool_call>{"arguments": {}}</tool_call>', ['<tool_call>{"arguments": {}}</tool_call>']),
    Case(HERMES, '<tool_call>{"name": ""}</tool_call>', ['<tool_call>{"name": ""}</tool_call>']),
    Case(HERMES, '<tool_call>{"name": 5}</tool_call>', ['<tool_call>{"name": 5}</tool_call>']),
    Case(HERMES, '<tool_call>{"name": "\\ud800"}</tool_call>', ['<tool_call>{"name": "\\ud800"}</tool_call>']),
    Case(HERMES, '<tool_call>{"name": "a\\nb"}</tool_call>', ['<tool_call>{"name": "a\\nb"}</tool_call>']),
    Case(HERMES, "<tool_call>{name: 1}", ["<tool_call>{name: 1}"]),
    Case(HERMES, "<tool_<tool_call><tool_call>" + CALL, ["<tool_<tool_call>", PARIS]),
    # Hermes, cut off
    Case(HERMES, "Ab <tool_", ["Ab <tool_"]),
    Case(HERMES, '<tool_call>\n{"name": "get', ['<tool_call>\n{"name": "get']),
    Case(HERMES, '<tool_call>\n{"name": "get_weather", "arg', [("get_weather", "")]),
    Case(HERMES, '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa', [("get_weather", '{"city": "Pa')]),
    Case(HERMES, '<tool_call>{"name": "x", "arguments": {"a": 1</tool', [("x", '{"a": 1</tool')]),
    Case(HERMES, TAGGED[:-3], [PARIS, "\n</tool_ca"]),
    # Llama 3.1 and 3.2
    Case(LLAMA, '{"name": "get_weather", "parameters": {"city": "Paris"}}', [PARIS]),
    Case(LLAMA, '\n{"type": "function", "name": "get_time", "parameters": {}}', [("get_time", "{}")]),
    Case(LLAMA, '<|python_tag|>{"name": "x", "parameters": {"q": "a"}}', [("x", '{"q": "a"}')]),
    Case(
        LLAMA,
        '{"name": "get_time", "parameters": {}}; {"name": "get_weather", "parameters": {"city": "Paris"}}',
        [("get_time", "{}"), PARIS],
    ),
    Case(LLAMA, 'I call <|python_tag|>{"name": "x", "parameters": {}}', ["I call ", ("x", "{}")]),
    Case(LLAMA, '<|python_tag|>brave.call(query="a")', ['<|python_tag|>brave.call(query="a")']),
    Case(LLAMA, '{"name": "Bob", "age": 3}', ['{"name": "Bob", "age": 3}']),
    Case(LLAMA, '{"answer": "get_weather"}', ['{"answer": "get_weather"}']),
    Case(LLAMA, 'Use {"name": "get_time"} then.', ['Use {"name": "get_time"} then.']),
    Case(LLAMA, '{"name": "get_time", "parameters": {}} and so on', [("get_time", "{}"), " and so on"]),
    Case(BARE_JSON, CALL, [PARIS]),
    Case(BARE_JSON, "[1, 2]", ["[1, 2]"]),
    Case(BARE_JSON, "  {", ["  {"]),
    # Mistral, before and since its v11 tokenizers
    Case(MISTRAL_LIST, f"[TOOL_CALLS][{CALL}]", [PARIS]),
    Case(
        MISTRAL_LIST,
        f'[TOOL_CALLS] [{CALL}, {{"name": "b", "arguments": {{}}, "id": "123456789"}}]',
        [PARIS, ("b", "{}")],
    ),
    Case(MISTRAL_LIST, "[TOOL_CALLS][]", ["[TOOL_CALLS][]"]),
    Case(MISTRAL_LIST, f"[TOOL_CALLS][{CALL}, 5] x", [PARIS, ", 5] x"]),
    Case(MISTRAL_LIST, f"[TOOL_CALLS][{CALL}", [PARIS]),
    Case(MISTRAL_NAMED, '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', [PARIS]),
    Case(MISTRAL_NAMED, 'Ok[TOOL_CALLS]get_weather{"city": "Paris"}[TOOL_CALLS]b[ARGS]{}', ["Ok", PARIS, ("b", "{}")]),
    Case(MISTRAL_NAMED, '[TOOL_CALLS]a[CALL_ID]123456789[ARGS]{"x": ["]"]}', [("a", '{"x": ["]"]}')]),
    Case(MISTRAL_NAMED, "[TOOL_CALLS]a[ARGS]", [("a", "")]),
    Case(MISTRAL_NAMED, "[TOOL_CALLS]a[ARGS]nothing", [("a", "{}"), "nothing"]),
    Case(MISTRAL_NAMED, "[TOOL_CALLS] a list of them", ["[TOOL_CALLS] a list of them"]),
    Case(MISTRAL_NAMED, "[TOOL_CALLS]a[INST]", ["[TOOL_CALLS]a[INST]"]),
    # Qwen3-Coder
    Case(QWEN_CODER, f"<tool_call>\n{FUNCTION}</function>\n</tool_call>", [PARIS]),
    Case(QWEN_CODER, f"{FUNCTION}</function>\n</tool_call>", [PARIS]),
    Case(
        QWEN_CODER,
        '<function=get_weather>\n<parameter=city>\nA "b"\n\nc\n</parameter>\n<parameter=days>\n3\n</parameter>\n'
        "<parameter=at>\n[1, 2]\n</parameter>\n<parameter=note>\nnull\n</parameter>\n"
        "<parameter=unit>\nC\n</parameter>\n"
        "<parameter=other>\n5\n</parameter>\n</function>",
        [
            (
                "get_weather",
                '{"city": "A \\"b\\"\\n\\nc", "days": 3, "at": [1, 2], "note": null, "unit": "C", "other": "5"}',
            )
        ],
    ),
    Case(
        QWEN_CODER,
        "<function=get_weather><parameter=days>many</parameter></function>",
        [("get_weather", '{"days": "many"}')],
    ),
    Case(
        QWEN_CODER, "<function=get_weather><parameter=days></parameter></function>", [("get_weather", '{"days": ""}')]
    ),
    Case(QWEN_CODER, "<function=get_time>\n</function>\n</tool_call>", [("get_time", "{}")]),
    Case(QWEN_CODER, "<tool_call>\n<function=get_time>\n</tool_call> x", [("get_time", "{}"), " x"]),
    Case(QWEN_CODER, "<function=x><parameter=a>\n1\n<parameter=b>\n2\n</function>", [("x", '{"a": "1", "b": "2"}')]),
    Case(QWEN_CODER, "<function=x><parameter=a>\n1</parameter> huh </function>", [("x", '{"a": "1"}'), " huh "]),
    Case(
        QWEN_CODER, "<function=x><parameter=a b>1</parameter></function>", [("x", "{}"), "<parameter=a b>1</parameter>"]
    ),
    Case(QWEN_CODER, "<function=>", ["<function=>"]),
    Case(QWEN_CODER, "<tool_call>\nhello", ["<tool_call>\nhello"]),
    Case(QWEN_CODER, "<function=x>\n<parameter=a>\nsome te\n</par", [("x", '{"a": "some te\\n</par')]),
    Case(QWEN_CODER, "<function=get_weather>\n<parameter=days>\n12", [("get_weather", '{"days": 12')]),
    # DeepSeek V3.1, and V3 and R1
    Case(
        DEEPSEEK,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
        "<｜tool▁call▁begin｜>b<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        [PARIS, ("b", "{}")],
    ),
    Case(
        DEEPSEEK_FENCED,
        "Ok.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```'
        "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>b\n```json\n{}\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ["Ok.", PARIS, ("b", "{}")],
    ),
    Case(DEEPSEEK, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜>", [("function", "{}")]),
    Case(DEEPSEEK, '<｜tool▁call▁begin｜>x<｜tool▁sep｜>{"a": 1<｜tool▁call▁end｜>.', [("x", '{"a": 1'), "."]),
    Case(DEEPSEEK, "<｜tool▁calls▁begin｜>none", ["<｜tool▁calls▁begin｜>none"]),
    Case(
        DEEPSEEK, "<｜tool▁call▁begin｜>function<｜tool▁sep｜>a b", ["<｜tool▁call▁begin｜>function<｜tool▁sep｜>a b"]
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.format.name}-{number}" for number, case in enumerate(CASES)])
def test_answers(case: Case) -> None:
    assert parsed(case.format, case.text) == case.expected
    assert joined(said_of(case.format, case.text)) == case.expected, "character by character"
    for cut in range(len(case.text)):
        assert joined(said_of(case.format, [case.text[:cut], case.text[cut:]])) == case.expected


FRAGMENTS = sorted(
    {
        *(marker for known in FORMATS for marker in known.markers),
        *(marker[:4] for known in FORMATS for marker in known.markers),
        *(case.text for case in CASES),
        *'{}[]",:\\ \n;a1<',
        '{"name": "get_time"',
        '"name":',
        '"arguments": {',
        '"get_weather"',
        "get_time",
        "```",
        "```json\n",
        "\\ud800",
        "é👩‍👩‍👧",
    }
)
ANSWERS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


@settings(max_examples=examples(250), deadline=None)
@given(st.sampled_from(FORMATS), ANSWERS, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_no_answer_depends_on_its_pieces(known: ToolFormat, text: str, cuts: list[int], parallel: bool) -> None:
    prompt = msgspec.structs.replace(PROMPT, parallel_tool_calls=parallel)
    ends = [*sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert joined(said_of(known, pieces, prompt)) == joined(said_of(known, text, prompt)) == parsed(known, text, prompt)


def is_within(part: str, whole: str) -> bool:
    """Whether all characters of `part` come in `whole`, in this order."""
    rest = iter(whole)
    return all(char in rest for char in part)


@settings(max_examples=examples(250), deadline=None)
@given(st.sampled_from(FORMATS), ANSWERS)
def test_no_text_is_lost_or_made_up(known: ToolFormat, text: str) -> None:
    out = parsed(known, text)
    if not any(isinstance(piece, tuple) for piece in out):
        assert "".join(map(str, out)) == text
    assert is_within("".join(piece for piece in out if isinstance(piece, str)), text)
    if known is not QWEN_CODER:
        assert all(piece[1] == "{}" or piece[1] in text for piece in out if isinstance(piece, tuple))


@settings(max_examples=examples(60), deadline=None)
@given(st.sampled_from(FORMATS), ANSWERS.map(lambda text: text[:200]))
def test_what_is_held_is_what_may_still_be_said(known: ToolFormat, text: str) -> None:
    for size in range(len(text) + 1):
        parser = ToolCallParser(known, PROMPT, SEED)
        said = parser.feed(text[:size])
        if not parser.has_calls:
            assert len("".join(map(str, said))) + parser.held == size
        held = parser.held
        rest = parser.flush()
        assert held or not rest
        assert parser.held == 0


@settings(max_examples=examples(100), deadline=None)
@given(st.sampled_from(FORMATS), ANSWERS)
def test_text_comes_right_before_what_is_held(known: ToolFormat, text: str) -> None:
    parser = ToolCallParser(known, PROMPT, SEED)
    for position, char in enumerate(text, 1):
        texts = [piece for piece in parser.feed(char) if isinstance(piece, str)]
        assert all(text[: position - parser.held].endswith(piece) for piece in texts)


@settings(max_examples=examples(100), deadline=None)
@given(st.sampled_from(FORMATS), ANSWERS)
def test_what_is_said_fits_the_wire(known: ToolFormat, text: str) -> None:
    calls = tuple(piece for piece in said_of(known, [text]) if isinstance(piece, ToolCallDelta))
    delta = TextDelta(tool_calls=calls)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(delta), type=TextDelta) == delta


@settings(max_examples=examples(100), deadline=None)
@given(st.text(), st.integers(-(2**60), 2**60), st.sampled_from([QWEN_CODER, HERMES, MISTRAL_NAMED, DEEPSEEK_FENCED]))
def test_any_arguments_come_back(city: str, days: int, known: ToolFormat) -> None:
    if known is QWEN_CODER:
        body = f"<parameter=city>\n{city}\n</parameter>\n<parameter=days>\n{days}\n</parameter>\n"
    else:
        body = json.dumps({"city": city, "days": days}, ensure_ascii=False)
    layout = known.layout
    head = f"{layout.begin}{layout.before}get_weather{layout.after_name}"
    (call,) = parsed(known, f"{head}{body}{layout.after}{layout.end}")
    assert call[0] == "get_weather"
    assert json.loads(call[1]) == {"city": city, "days": days}


def test_the_name_goes_out_at_once_and_arguments_as_they_come() -> None:
    parser = ToolCallParser(HERMES, PROMPT, SEED)
    steps: list[tuple[str, list[TextOrCall], int]] = [
        ("Ok <", ["Ok "], 1),
        ("tool_call>", [], 11),
        ('\n{"name": "x', [], 23),
        ('"', [ToolCallDelta(0, call_id(SEED, 0), "x")], 0),
        (', "argu', [], 7),
        ('ments": {"a"', [ToolCallDelta(0, arguments='{"a"')], 0),
        (': "<tool', [ToolCallDelta(0, arguments=': "<tool')], 0),
        ('"}', [ToolCallDelta(0, arguments='"}')], 0),
        ("}\n", [], 1),
        ("</tool_call>\n", [], 1),
        ("Bye", ["\nBye"], 0),
    ]
    for text, said, held in steps:
        assert (parser.feed(text), parser.held) == (said, held), text
    assert parser.has_calls and not parser.is_done
    assert parser.flush() == []


def test_one_call_only_where_calls_are_not_parallel() -> None:
    prompt = msgspec.structs.replace(PROMPT, parallel_tool_calls=False)
    for known, text in [
        (HERMES, f"Ok {TAGGED}{TAGGED} more"),
        (MISTRAL_LIST, f"Ok [TOOL_CALLS][{CALL}, {CALL}]"),
        (QWEN_CODER, f"Ok {FUNCTION}</function>{FUNCTION}</function>"),
        (DEEPSEEK, 'Ok <｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜> more'),
    ]:
        assert parsed(known, text, prompt) == ["Ok ", PARIS]
        parser = ToolCallParser(known, prompt, SEED)
        parser.feed(text)
        assert (parser.is_done, parser.held, parser.feed("more"), parser.flush()) == (True, 0, [], [])


def test_an_answer_has_so_many_calls_and_no_more() -> None:
    parser = ToolCallParser(HERMES, PROMPT, SEED)
    said = parser.feed("<tool_call>" + CALL + ("<tool_call>" + CALL) * MAX_TOOLS)
    assert parser.is_done
    assert len(joined(said + parser.flush())) == MAX_TOOLS


def test_an_answer_without_calls() -> None:
    parser = ToolCallParser(HERMES, PROMPT, SEED)
    assert (parser.feed(""), parser.flush()) == ([], [])
    assert not parser.has_calls and not parser.is_done


def test_ids_are_the_same_on_each_worker_and_differ_in_a_conversation() -> None:
    assert call_id(7, 0) == "call_80a04f98e63d9a3af0d07242"
    ids = {call_id(seed, position) for seed in (0, 1, (1 << 63) - 1) for position in range(50)}
    assert len(ids) == 150
    turn = Message("assistant", "", (ToolCall("a", "x", "{}"), ToolCall("b", "x", "{}")))
    later = ChatPrompt((*PROMPT.messages, turn), PROMPT.tools)
    (first, *_) = ToolCallParser(HERMES, later, SEED).feed(TAGGED)
    assert isinstance(first, ToolCallDelta) and first.id == call_id(SEED, 2)


@pytest.mark.parametrize(
    ("known", "begin", "again"),
    [
        (HERMES, "", "Some text. "),
        (HERMES, "<tool_call>", " "),
        (HERMES, "", "<tool_call"),
        (HERMES, '<tool_call>{"a": "', "\\"),
        (HERMES, "<tool_call>{", '"a": [1], '),
        (HERMES, '<tool_call>{"name": "x", "arguments": ', "["),
        (HERMES, TAGGED, "\n"),
        (QWEN_CODER, "<function=get_weather><parameter=city>", "\n</param"),
        (QWEN_CODER, "<function=get_weather><parameter=days>", "1"),
        (MISTRAL_NAMED, "", "[TOOL_CALLS]a"),
        (LLAMA, "<|python_tag|>", "{"),
    ],
)
def test_time_is_linear(known: ToolFormat, begin: str, again: str) -> None:
    def seconds(size: int) -> float:
        text = begin + again * (size // len(again))
        start = time.process_time()
        said_of(known, text)
        return time.process_time() - start

    assert seconds(80_000) < 24 * max(seconds(10_000), 0.01), "8 times as long, not 64 times"


QWEN_TEMPLATE = '<tools>{{ tools }}</tools> ... <tool_call>\n{"name": <function-name>, "arguments": ...}\n</tool_call>'


@pytest.mark.parametrize(
    ("template", "known"),
    [
        (QWEN_TEMPLATE, HERMES),
        (
            "<tool_call>\n<function=example>\n<parameter=one>\nvalue\n</parameter>\n</function>\n</tool_call>",
            QWEN_CODER,
        ),
        ("{{ '[TOOL_CALLS] [' }}{{ call.function|tojson }}", MISTRAL_LIST),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", MISTRAL_NAMED),
        ("'<｜tool▁call▁begin｜>' + type + '<｜tool▁sep｜>' + name + '\\n```json\\n'", DEEPSEEK_FENCED),
        ("'<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments", DEEPSEEK),
        ('<|start_header_id|>user<|end_header_id|> Respond in the format {"name": ..., "parameters": ...}', LLAMA),
        ('Answer with JSON: {"name": ..., "arguments": ...}', BARE_JSON),
        ("<tool_call>{function-name}\n<arg_key>{key}</arg_key>", None),
        ("<|tool_calls_section_begin|><|tool_call_begin|>functions.x:0", None),
        ("<|start|>assistant<|channel|>commentary to=functions.x", None),
    ],
)
def test_formats_by_their_templates(template: str, known: ToolFormat | None) -> None:
    assert find_format(template) is known


@pytest.mark.parametrize("known", FORMATS, ids=[known.name for known in FORMATS])
def test_no_marker_begins_another(known: ToolFormat) -> None:
    """What `Reader.until` relies on."""
    assert not [(a, b) for a in known.markers for b in known.markers if a != b and b.startswith(a)]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (None, True),
        ({"type": "string"}, True),
        ({"type": ["string"]}, True),
        ({"enum": ["a", "b"]}, True),
        ({"enum": ["a", 1]}, False),
        ({"type": ["string", "null"]}, False),
        ({"type": "integer"}, False),
        ({"anyOf": [{"type": "string"}]}, False),
        ({}, False),
    ],
)
def test_which_parameters_are_texts(schema: dict[str, object] | None, expected: bool) -> None:
    assert is_text(schema) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("3", "3"),
        (" 3\n", "3"),
        ('{"a": [null]}', '{"a": [null]}'),
        ("True", "true"),
        ("None", "null"),
        ("NaN", '"NaN"'),
        ("{'a': 1}", "\"{'a': 1}\""),
        ("", '""'),
        ("9" * 5000, '"' + "9" * 5000 + '"'),
        ("[" * 100_000, '"' + "[" * 100_000 + '"'),
    ],
    ids=range(10),
)
def test_values_as_json(value: str, expected: str) -> None:
    assert as_json(value) == expected


def test_broken_schemas_are_refused() -> None:
    for parameters in ("", "{", "[]", "null", "[" * 60_000):
        with pytest.raises(InvalidRequest, match="get_time"):
            ToolCallParser(HERMES, ChatPrompt(PROMPT.messages, (Tool("get_time", "", parameters),)), SEED)
    odd = ChatPrompt(
        PROMPT.messages, (Tool("x", "", '{"properties": 5}'), Tool("y", "", '{"properties": {"a": true}}'))
    )
    assert parsed(QWEN_CODER, "<function=y><parameter=a>1</parameter></function>", odd) == [("y", '{"a": 1}')]


# What the answer has to look like, with the library that holds it to that: bytes are its tokens here.

BYTES = llguidance.LLTokenizer("byte")


def accepts(grammar: str, text: str) -> bool:
    """Whether the grammar allows this text, and an end after it."""
    matcher = llguidance.LLMatcher(BYTES, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.is_error(), matcher.get_error()
    tokens = BYTES.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def answer(known: ToolFormat, *bodies: tuple[str, str]) -> str:
    layout = known.layout
    calls = [f"{layout.before}{name}{layout.after_name}{body}{layout.after}" for name, body in bodies]
    return layout.begin + (layout.between or "").join(calls) + layout.end


def body_of(known: ToolFormat, days: str) -> str:
    if known is QWEN_CODER:
        values = {"city": "Rome", "days": days, "at": "[1]"}
        return "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f'{{"city": "Rome", "days": {days}, "at": [1]}}'


@pytest.mark.parametrize("known", FORMATS, ids=[known.name for known in FORMATS])
def test_forced_answers_are_the_calls_that_the_parser_reads(known: ToolFormat) -> None:
    empty = "" if known is QWEN_CODER else "{}"
    weather, clock = ("get_weather", body_of(known, "3")), ("get_time", empty)
    grammar = lark(forced_calls(known, PROMPT), {})
    one, two = answer(known, weather), answer(known, weather, clock)
    assert accepts(grammar, one) and accepts(grammar, answer(known, clock))
    assert accepts(grammar, two) is (known.layout.between is not None)
    arguments = '{"city": "Rome", "days": 3, "at": [1]}'
    assert parsed(known, one) == [("get_weather", arguments)]
    if known.layout.between is not None:
        assert parsed(known, two) == [("get_weather", arguments), ("get_time", "{}")]
    for refused in (answer(known, ("get_weather", body_of(known, '"x"'))), answer(known, ("other", empty)), "Hello"):
        assert not accepts(grammar, refused)


@pytest.mark.parametrize("known", FORMATS, ids=[known.name for known in FORMATS])
def test_a_named_tool_and_a_single_call(known: ToolFormat) -> None:
    empty = "" if known is QWEN_CODER else "{}"
    named = msgspec.structs.replace(PROMPT, tool_choice="required", required_tool="get_time", parallel_tool_calls=False)
    grammar = lark(forced_calls(known, named), {})
    assert accepts(grammar, answer(known, ("get_time", empty)))
    assert not accepts(grammar, answer(known, ("get_weather", body_of(known, "3"))))
    assert not accepts(grammar, answer(known, ("get_time", empty), ("get_time", empty)))


def test_json_has_at_most_a_space_between_its_parts() -> None:
    parameters = (
        '{"x-guidance": {"whitespace_pattern": ".*"}, "properties": {"a": {"type": "integer"}}, "required": ["a"]}'
    )
    grammar = lark(forced_calls(LLAMA, ChatPrompt(PROMPT.messages, (Tool("x", "", parameters),))), {})
    for arguments, expected in [('{"a": 1}', True), ('{"a":1}', True), ('{"a":  1}', False), ('{ "a":1}', False)]:
        assert accepts(grammar, f'{{"name": "x", "parameters": {arguments}}}') is expected


def test_markers_that_are_tokens() -> None:
    form = forced_calls(DEEPSEEK, msgspec.structs.replace(PROMPT, required_tool="get_time"))
    grammar = lark(form, {marker: 100 + number for number, marker in enumerate(DEEPSEEK.markers)})
    assert "<[100]> call" in grammar and '<[101]> "get_time" <[102]> json_' in grammar
    assert "tool▁" not in grammar


@pytest.mark.parametrize(
    ("known", "prompt", "words"),
    [
        (HERMES, ChatPrompt(PROMPT.messages), "not among the tools"),
        (HERMES, ChatPrompt(PROMPT.messages, (TIME,), required_tool="other"), "not among the tools"),
        (HERMES, ChatPrompt(PROMPT.messages, (Tool("x", "", "[]"),)), "not a JSON object"),
        (HERMES, ChatPrompt(PROMPT.messages, (Tool("a\nb"),)), "cannot call a tool named"),
        (HERMES, ChatPrompt(PROMPT.messages, (Tool("x", "", '{"multipleOf": 1000003}'),)), "multipleOf"),
        (MISTRAL_NAMED, ChatPrompt(PROMPT.messages, (Tool("a b"),)), "cannot call a tool named 'a b'"),
        (
            QWEN_CODER,
            ChatPrompt(PROMPT.messages, (Tool("x", "", '{"properties": {"a>b": {}}}'),)),
            "cannot give a parameter named 'a>b'",
        ),
    ],
)
def test_what_cannot_be_forced(known: ToolFormat, prompt: ChatPrompt, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        forced_calls(known, prompt)


def test_a_name_in_quotes_is_escaped() -> None:
    prompt = ChatPrompt(PROMPT.messages, (Tool('a"b\\c'),))
    form = forced_calls(HERMES, prompt)
    text = '<tool_call>\n{"name": "a\\"b\\\\c", "arguments": {}}\n</tool_call>'
    assert accepts(lark(form, {}), text)
    assert parsed(HERMES, text, prompt) == [('a"b\\c', "{}")]
