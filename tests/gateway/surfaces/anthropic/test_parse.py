"""Anthropic's bodies to requests, as tables; and bodies made up at random, which may be refused but break nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.surfaces.anthropic.schema import count_request, message_request, parse_count, parse_message
from p2pnet.answer_forms import JsonSchemaFormat
from p2pnet.errors import InvalidRequest, ModelNotFound, P2PNetError
from p2pnet.messages import MAX_IMAGES, ChatPrompt, GenerateRequest, ImagePart, Message, Sampling, Tool, ToolCall
from tests.depth import examples
from tests.images import base64, gif, png

USER = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "messages": [USER]}
HI = Message("user", "hi")
WEATHER = {"name": "weather", "description": "Says it.", "input_schema": {"type": "object"}}
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
TOOL = Tool("weather", "Says it.", '{"type":"object"}')
CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln", "days": 2}}
CALLED = ToolCall("toolu_1", "weather", '{"city":"Köln","days":2}')


def parse(body: dict[str, Any]) -> GenerateRequest:
    return message_request(parse_message(json.dumps(body).encode()), "r1", lambda: 42)


def request(*messages: Message, **fields: Any) -> GenerateRequest:
    """What BODY becomes, with these turns and these fields."""
    prompt = fields.pop("prompt", ChatPrompt(messages or (HI,)))
    return GenerateRequest("r1", "tiny", prompt, **{"sampling": Sampling(seed=42), "max_tokens": 8, **fields})


def turn(role: str, *content: Any) -> dict[str, Any]:
    return {"role": role, "content": list(content)}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "toolu_1", "content": content, **fields}


def shown(image: bytes, media_type: str = "image/png") -> dict[str, Any]:
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": base64(image)}}


ACCEPTED: list[tuple[str, dict[str, Any], GenerateRequest]] = [
    ("plain", {}, request()),
    ("blocks of text", {"messages": [turn("user", text("h"), text("i"))]}, request()),
    ("a system prompt", {"system": "Be brief."}, request(Message("system", "Be brief."), HI)),
    (
        "a system prompt in blocks",
        {"system": [{**text("Be "), "cache_control": {"type": "ephemeral"}}, text("brief.")]},
        request(Message("system", "Be brief."), HI),
    ),
    ("no system prompt", {"system": ""}, request()),
    (
        "a system turn in between",
        {"messages": [USER, turn("system", text("Stop."))]},
        request(HI, Message("system", "Stop.")),
    ),
    (
        "sampling",
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40},
        request(sampling=Sampling(seed=42, temperature=0.5, top_p=0.9, top_k=40)),
    ),
    ("no choice of tokens", {"temperature": 0.5, "top_p": 0}, request(sampling=Sampling(seed=42, temperature=0.0))),
    ("stop sequences", {"stop_sequences": ["\n\nHuman:", "END"]}, request(stop=("\n\nHuman:", "END"))),
    (
        "what says nothing of the answer",
        {
            "metadata": {"user_id": "u"},
            "service_tier": "auto",
            "cache_control": {"type": "ephemeral"},
            "context_management": {"edits": []},
            "thinking": {"type": "disabled"},
            "inference_geo": "global",
            "unheard_of": [1],
        },
        request(),
    ),
    ("thought that the model may leave out", {"thinking": {"type": "adaptive"}}, request()),
    ("thought, as Claude Code asks for it", {"thinking": {"type": "enabled", "budget_tokens": 31999}}, request()),
    (
        "tools",
        {"tools": [{**WEATHER, "cache_control": {"type": "ephemeral"}}]},
        request(prompt=ChatPrompt((HI,), (TOOL,))),
    ),
    (
        "no tool now",
        {"tools": [{**WEATHER, "type": "custom"}], "tool_choice": {"type": "none"}},
        request(prompt=ChatPrompt((HI,), (TOOL,), "none")),
    ),
    (
        "any tool",
        {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        request(prompt=ChatPrompt((HI,), (TOOL,), "required", parallel_tool_calls=False)),
    ),
    (
        "this tool",
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "weather"}},
        request(prompt=ChatPrompt((HI,), (TOOL,), "required", "weather")),
    ),
    (
        "tools that Anthropic runs, and what they found in an earlier turn",
        {
            "tools": [SEARCH, WEATHER, {"type": "mcp_toolset", "mcp_server_name": "x"}],
            "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}],
            "messages": [
                USER,
                turn(
                    "assistant",
                    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
                    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                    text("It rains."),
                ),
                turn("user", text("And?")),
            ],
        },
        request(
            prompt=ChatPrompt((HI, Message("assistant", "It rains."), Message("user", "And?")), (TOOL,)),
        ),
    ),
    (
        "calls and results",
        {
            "messages": [
                USER,
                turn("assistant", text("Let me see."), CALL),
                turn("user", result([text("rain "), text("and wind")]), text("And?")),
            ]
        },
        request(
            HI,
            Message("assistant", "Let me see.", (CALLED,)),
            Message("tool", "rain and wind", tool_call_id="toolu_1"),
            Message("user", "And?"),
        ),
    ),
    (
        "a result that is an error, and one that is nothing",
        {"messages": [USER, turn("assistant", CALL), turn("user", result("no such city", is_error=True), result())]},
        request(
            HI,
            Message("assistant", "", (CALLED,)),
            Message("tool", "Error: no such city", tool_call_id="toolu_1"),
            Message("tool", "", tool_call_id="toolu_1"),
        ),
    ),
    (
        "turns of one role in a row",
        {
            "messages": [
                USER,
                turn("user", text("there")),
                turn("assistant", text("Hel")),
                turn("assistant", text("lo")),
                USER,
            ]
        },
        request(Message("user", "hi\n\nthere"), Message("assistant", "Hello"), HI),
    ),
    (
        "earlier thoughts",
        {
            "messages": [
                USER,
                turn("assistant", {"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("Yes.")),
                USER,
            ]
        },
        request(HI, Message("assistant", "Yes."), HI),
    ),
    (
        "images among the text",
        {"messages": [turn("user", text("ab"), shown(png(), "image/jpeg"), text("c"), shown(gif(2)))]},
        request(Message("user", "abc", images=(ImagePart(png(), 2), ImagePart(gif(), 3)))),
    ),
    (
        "nothing but an image",
        {"messages": [turn("user", shown(png()))]},
        request(Message("user", "", images=(ImagePart(png()),))),
    ),
    (
        "images in turns of one role in a row",
        {"messages": [turn("user", shown(png()), text("hi")), turn("user", text("a"), shown(gif()))]},
        request(Message("user", "hi\n\na", images=(ImagePart(png()), ImagePart(gif(), 5)))),
    ),
    (
        "an image in a result that is an error",
        {"messages": [USER, turn("assistant", CALL), turn("user", result([text("see"), shown(png())], is_error=True))]},
        request(
            HI,
            Message("assistant", "", (CALLED,)),
            Message("tool", "Error: see", tool_call_id="toolu_1", images=(ImagePart(png(), 10),)),
        ),
    ),
    (
        "a prefill",
        {"messages": [USER, {"role": "assistant", "content": "The answer is ("}]},
        request(resume_text="The answer is ("),
    ),
    ("a prefill of nothing", {"messages": [USER, turn("assistant")]}, request()),
    (
        "a prefill in parts",
        {"messages": [USER, turn("assistant", text("The ")), turn("assistant", text("ans"), text("wer"))]},
        request(resume_text="The answer"),
    ),
    (
        "an answer of a schema",
        {"output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}},
        request(response_format=JsonSchemaFormat('{"type":"object"}')),
    ),
    (
        "an answer of a schema, as it was asked for earlier",
        {"output_format": {"type": "json_schema", "schema": {"type": "object"}}},
        request(response_format=JsonSchemaFormat('{"type":"object"}')),
    ),
]


@pytest.mark.parametrize(("fields", "expected"), [case[1:] for case in ACCEPTED], ids=[case[0] for case in ACCEPTED])
def test_bodies_that_are_served(fields: dict[str, Any], expected: GenerateRequest) -> None:
    assert parse({**BODY, **fields}) == expected


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens: input should be a valid integer"),
    ({"max_tokens": 0}, "max_tokens: expected `int` >= 1"),
    ({"max_tokens": "8"}, "max_tokens: input should be a valid integer"),
    ({"temperature": 200}, "temperature: expected `float` <= 100"),
    ({"top_k": -1}, "top_k: expected `int` >= 0"),
    ({"messages": []}, "messages: list should have at least 1 item"),
    ({"messages": [{"role": "user"}]}, "messages[0].content: field required"),
    ({"messages": [turn("robot", text("hi"))]}, "messages[0].role: one of user, assistant, system"),
    ({"messages": [turn("assistant", text("I"))]}, "messages: expected `array` of length >= 1"),
    (
        {"messages": [turn("user", {"type": "image", "source": {"type": "url", "url": "http://x"}})]},
        "messages[0].content[0].source: images are not fetched here; send the image itself, as base64",
    ),
    (
        {"messages": [turn("user", {"type": "image", "source": {"type": "file", "file_id": "file_1"}})]},
        "messages[0].content[0].source: images are not fetched here; send the image itself, as base64",
    ),
    ({"messages": [turn("user", {"type": "image"})]}, "messages[0].content[0].source: images are not fetched"),
    (
        {"messages": [turn("user", shown(b"<svg/>"))]},
        "messages[0].content[0].source.data: This is no image that can be read here: send PNG, JPEG, WebP or GIF.",
    ),
    (
        {"messages": [turn("user", {"type": "image", "source": {"type": "base64", "data": "a?"}})]},
        "messages[0].content[0].source.data: this is not base64",
    ),
    ({"messages": [turn("user", *[shown(png())] * (MAX_IMAGES + 1))]}, "messages: expected `array` of length <= 16"),
    (
        {
            "messages": [
                turn("user", *[shown(png())] * 9),
                turn("assistant", text("a")),
                turn("user", *[shown(png())] * 9),
            ]
        },
        "A request has at most 16 images: leave some out.",
    ),
    (
        {"messages": [USER, turn("assistant", shown(png())), USER]},
        "messages[1].content[0].type: 'image' is not supported here",
    ),
    (
        {"messages": [turn("user", text("see"), {"type": "document", "source": {}})]},
        "messages[0].content[1].type: 'document' is not supported here",
    ),
    (
        {"messages": [USER, turn("assistant", CALL), turn("user", result([{"type": "image", "source": {}}]))]},
        "messages[2].content[0].content[0].source: images are not fetched here",
    ),
    ({"messages": [turn("user", {"type": "text"})]}, "messages[0].content[0].text: required"),
    ({"messages": [turn("user", CALL)]}, "messages[0].content[0].type: 'tool_use' is not"),
    (
        {"messages": [USER, turn("assistant", CALL)]},
        "messages[1].content: the results of its tool_use blocks are missing",
    ),
    (
        {"messages": [USER, turn("assistant", {**CALL, "id": "x" * 129}), turn("user", result())]},
        "messages: expected `str` of length <= 128",
    ),
    ({"system": [text("a"), {"type": "image"}]}, "system[1].type: 'image' is not supported here"),
    ({"system": ["a"]}, "system[0]: a block of text"),
    ({"stop_sequences": [""]}, "stop_sequences: expected `str` of length >= 1"),
    ({"stop_sequences": ["a", 1]}, "stop_sequences[1]: input should be a valid string"),
    ({"thinking": {"type": "deep"}}, "thinking: not supported here"),
    ({"container": "abc"}, "container: not supported here"),
    ({"inference_geo": "eu"}, "inference_geo: not supported here"),
    (
        {"tools": [WEATHER, {"type": "bash_20250124", "name": "bash"}]},
        "tools[1].type: 'bash_20250124' is not supported here",
    ),
    (
        {"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}},
        "tool_choice: no such tool among the tools",
    ),
    ({"tools": [{"name": "weather"}]}, "tools[0].input_schema: required"),
    ({"tools": [{"input_schema": {}}]}, "tools[0].name: required"),
    ({"tools": [{**WEATHER, "name": "x" * 129}]}, "tools[0].name: expected `str` of length <= 128"),
    ({"tool_choice": {"type": "any"}}, "tool_choice: no such tool among the tools"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice: no such tool"),
    ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice.type: one of auto, any"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format: a json_schema"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"a": "b" * (1 << 16)}}}},
        "output_config: expected `str` of length <= 65536",
    ),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=[case[1][:50] for case in REFUSED])
def test_bodies_that_are_refused_name_the_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse({**BODY, **fields})
    assert refused.value.message.startswith(message)


@pytest.mark.parametrize("name", ["no spaces", "", "x" * 129])
def test_a_name_that_no_model_can_have_is_no_model(name: str) -> None:
    with pytest.raises(ModelNotFound):
        parse({**BODY, "model": name})


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"model":"\\ud800"}', b"[" * 100_000, b"\xff", b"NaN"])
def test_what_is_no_body_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_message(raw)


@pytest.mark.parametrize("number", ["1e999", "Infinity", "NaN"])
def test_numbers_that_are_none_do_not_get_into_schemas(number: str) -> None:
    body = json.dumps({**BODY, "tools": [{**WEATHER, "input_schema": {"maximum": "@"}}]}).replace('"@"', number)
    with pytest.raises(InvalidRequest, match="tools"):
        message_request(parse_message(body.encode()), "r1", lambda: 42)


def test_large_numbers_get_into_calls_as_they_are() -> None:
    call = {**CALL, "input": {"id": 12345678901234567890123}}
    parsed = parse({**BODY, "messages": [USER, turn("assistant", call), turn("user", result("x"))]})
    assert isinstance(parsed.prompt, ChatPrompt)
    assert parsed.prompt.messages[1].tool_calls[0].arguments == '{"id":12345678901234567890123}'


def test_counting_asks_for_the_shortest_answer_to_the_same_prompt() -> None:
    body = {"model": "tiny", "system": "Be brief.", "messages": [USER], "tools": [WEATHER]}
    counted = count_request(parse_count(json.dumps(body).encode()), "r1")
    assert counted == GenerateRequest(
        "r1", "tiny", ChatPrompt((Message("system", "Be brief."), HI), (TOOL,)), max_tokens=1
    )


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
WORDS = st.sampled_from(["text", "tool_use", "tool_result", "image", "thinking", "user", "assistant", "any", "weather"])
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.fixed_dictionaries(
    {"type": WORDS},
    optional={
        "text": st.text(max_size=8) | VALUES,
        "id": st.text(max_size=8) | VALUES,
        "name": WORDS | VALUES,
        "input": st.dictionaries(st.text(max_size=4), VALUES, max_size=2) | VALUES,
        "tool_use_id": st.text(max_size=8) | VALUES,
        "content": st.text(max_size=8) | st.lists(VALUES, max_size=2) | VALUES,
        "is_error": st.booleans() | VALUES,
    },
)
TURNS = st.fixed_dictionaries({"role": WORDS, "content": st.text(max_size=8) | st.lists(BLOCKS, max_size=3) | VALUES})
BODIES = st.fixed_dictionaries(
    {
        "model": st.just("tiny") | VALUES,
        "messages": st.lists(TURNS, max_size=4) | VALUES,
        "max_tokens": st.just(8) | VALUES,
    },
    optional=dict.fromkeys(
        ("system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences", "temperature", "top_k"),
        VALUES,
    ),
)


@settings(max_examples=examples(150), deadline=None, derandomize=True)
@given(BODIES)
def test_any_body_is_served_or_refused(body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    try:
        found = message_request(parse_message(raw), "r1", lambda: 42)
    except P2PNetError as error:
        assert error.message
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=GenerateRequest) == found


@settings(max_examples=examples(100), deadline=None, derandomize=True)
@given(st.binary(max_size=64) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_refused_or_served(raw: bytes) -> None:
    for parser in (parse_message, parse_count):
        try:
            parser(raw)
        except P2PNetError as error:
            assert error.message
