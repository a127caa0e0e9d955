"""Ollama bodies to canonical requests, as tables: what is understood, and what is refused in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.interface import ModelEntry
from gateway.surfaces.ollama import schema
from gateway.surfaces.ollama.context import MAX_CONTEXT_BYTES, Turn, decode_context, encode_context
from gateway.surfaces.ollama.options import OUR_NAMES
from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import FeatureMissing, InvalidRequest, ModelNotFound, P2PNetError
from p2pnet.messages import (
    MAX_IMAGES,
    ChatPrompt,
    GenerateRequest,
    ImagePart,
    Message,
    Sampling,
    TextPrompt,
    Tool,
    ToolCall,
)
from tests.images import base64, gif, png

SEED = 42
HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
TINY = ModelEntry("tiny", 0, 1, 512, features=("chat", "text"))
CODER = ModelEntry("coder", 0, 1, 512, features=("chat", "fim", "text"))
BASE = ModelEntry("base", 0, 1, 512, features=("text",))
SEEING = ModelEntry("seeing", 0, 1, 512, features=("chat", "images", "text"))
VECTORS = ModelEntry("vectors", 0, 1, 512, tasks=("embed",), features=("text",))


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def chat(body: Any, entry: ModelEntry | None = TINY) -> GenerateRequest:
    parsed = schema.parse(schema.ChatBody, encoded(body))
    schema.check_generation(parsed, entry)
    return schema.chat_request(parsed, entry, "request-1", lambda: SEED)


def generate(body: Any, entry: ModelEntry | None = TINY) -> GenerateRequest:
    parsed = schema.parse(schema.GenerateBody, encoded(body))
    schema.check_generation(parsed, entry)
    return schema.generate_request(parsed, entry, "request-1", lambda: SEED)


def embed(body: Any, entry: ModelEntry | None = None) -> EmbedRequest:
    parsed = schema.parse(schema.EmbedBody, encoded(body))
    truncate = parsed.truncate is not False
    return schema.embed_request(
        parsed.name, entry, parsed.texts(), "request-1", dimensions=parsed.dimensions, truncate=truncate
    )


def sampled(**changes: Any) -> Sampling:
    return Sampling(**{"seed": SEED, "temperature": 0.8, "top_p": 0.9, **changes})


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0}, {"sampling": sampled(temperature=0.0)}),
    ({"temperature": 1.5, "top_p": 1, "min_p": 0.05}, {"sampling": sampled(temperature=1.5, top_p=1.0, min_p=0.05)}),
    ({"temperature": None, "top_k": None, "stop": None}, {}),
    ({"top_k": 40}, {"sampling": sampled(top_k=40)}),
    ({"top_k": 40.9}, {"sampling": sampled(top_k=40)}),
    ({"top_k": -1}, {"sampling": sampled(top_k=0)}),
    ({"repeat_penalty": 1.1}, {"sampling": sampled(repetition_penalty=1.1)}),
    ({"repeat_penalty": 1.1, "repeat_last_n": 0}, {"sampling": sampled()}),
    ({"repeat_penalty": 1.1, "repeat_last_n": 64}, {"sampling": sampled(repetition_penalty=1.1)}),
    (
        {"presence_penalty": 1, "frequency_penalty": -2},
        {"sampling": sampled(presence_penalty=1.0, frequency_penalty=-2.0)},
    ),
    ({"seed": 7}, {"sampling": sampled(seed=7)}),
    ({"seed": 0}, {"sampling": sampled(seed=0)}),
    ({"seed": -1}, {}),
    ({"seed": -2}, {"sampling": sampled(seed=(1 << 63) - 2)}),
    ({"num_predict": 5}, {"max_tokens": 5}),
    ({"num_predict": 5.0}, {"max_tokens": 5}),
    ({"num_predict": -1}, {}),
    ({"num_predict": -2}, {}),
    ({"num_predict": 0}, {}),
    ({"num_ctx": 100}, {"max_tokens": 100}),
    ({"num_ctx": 100, "num_predict": 5}, {"max_tokens": 5}),
    ({"num_ctx": 100, "num_predict": -2}, {"max_tokens": 100}),
    ({"num_ctx": 8192}, {"max_tokens": 8192}),
    ({"num_predict": 1 << 21}, {"max_tokens": 1 << 20}),
    # Numbers outside of our bounds are the nearest within.
    ({"temperature": -1}, {"sampling": sampled(temperature=0.0)}),
    ({"temperature": 1000}, {"sampling": sampled(temperature=100.0)}),
    ({"top_p": 0}, {"sampling": sampled(temperature=0.0, top_p=1.0)}),
    ({"top_p": -0.5, "temperature": 1}, {"sampling": sampled(temperature=0.0, top_p=1.0)}),
    ({"top_p": 1.5}, {"sampling": sampled(top_p=1.0)}),
    ({"min_p": 2}, {"sampling": sampled(min_p=1.0)}),
    ({"top_k": 1 << 40}, {"sampling": sampled(top_k=(1 << 31) - 1)}),
    ({"repeat_penalty": 0}, {"sampling": sampled()}),
    ({"repeat_penalty": 101}, {"sampling": sampled(repetition_penalty=100.0)}),
    (
        {"presence_penalty": 3, "frequency_penalty": -3},
        {"sampling": sampled(presence_penalty=2.0, frequency_penalty=-2.0)},
    ),
    ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
    ({"stop": "a"}, {"stop": ("a",)}),
    ({"stop": ["", "a"]}, {"stop": ("a",)}),
    ({"mirostat": 2, "tfs_z": 0.5, "typical_p": 0.7, "num_gpu": 1, "use_mmap": True, "no_such": [1]}, {}),
]


@pytest.mark.parametrize(("options", "fields"), OPTIONS, ids=str)
def test_options(options: dict[str, Any], fields: dict[str, Any]) -> None:
    said = {"sampling": sampled(), "clamp_max_tokens": "max_tokens" in fields} | fields
    expected = GenerateRequest("request-1", "tiny", ChatPrompt((Message("user", "hi"),)), **said)
    assert chat({"model": "tiny", "messages": HI, "options": options}) == expected
    assert generate({"model": "tiny", "prompt": "hi", "options": options}) == expected


REFUSED_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"top_k": "40"}, 'option "top_k" must be of type integer'),
    ({"top_k": True}, 'option "top_k" must be of type integer'),
    ({"temperature": "hot"}, 'option "temperature" must be of type float32'),
    ({"temperature": 10**400}, 'option "temperature" must be of type float32'),
    ({"stop": 1}, 'option "stop" must be of type array'),
    ({"stop": ["a", 1]}, 'option "stop" must be of an array of strings'),
    ({"stop": ["x"] * 17}, "stop: expected `array` of length <= 16"),
    ({"stop": ["x" * 1025]}, "stop[0]: expected `str` of length <= 1024"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED_OPTIONS, ids=lambda value: str(value)[:60])
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"model": "tiny", "messages": HI, "options": options})
    assert str(refused.value) == message


WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALL = {"function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
CALL_TEXT = '{"city":"Zürich","days":2}'

CHATS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"stream": False, "keep_alive": "5m", "truncate": True, "no_such_field": 1}, {}),
    ({"think": False}, {}),
    ({"think": True}, {}),
    ({"think": "high"}, {}),
    ({"think": None, "format": None, "tools": None, "logprobs": None, "options": None}, {}),
    ({"format": ""}, {}),
    ({"format": "json"}, {"response_format": JsonFormat()}),
    ({"format": {"type": "object"}}, {"response_format": JsonSchemaFormat('{"type":"object"}')}),
    ({"logprobs": True}, {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
    ({"top_logprobs": 3}, {}),
]


@pytest.mark.parametrize(("body", "fields"), CHATS, ids=str)
def test_fields_of_a_chat(body: dict[str, Any], fields: dict[str, Any]) -> None:
    expected = GenerateRequest("request-1", "tiny", ChatPrompt((Message("user", "hi"),)), sampled(), **fields)
    assert chat({"model": "tiny", "messages": HI, **body}) == expected


MESSAGES: list[tuple[list[dict[str, Any]], tuple[Message, ...]]] = [
    ([{"role": "System", "content": "be brief"}, *HI], (Message("system", "be brief"), Message("user", "hi"))),
    ([{"role": "user"}], (Message("user", ""),)),
    ([{"role": "user", "content": None, "images": []}], (Message("user", ""),)),
    ([{"role": "assistant", "content": "a", "thinking": "hm"}], (Message("assistant", "a"),)),
    (
        [
            {"role": "assistant", "tool_calls": [{"id": "c1", **CALL}]},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
        ],
        (
            Message("assistant", "", (ToolCall("c1", "weather", CALL_TEXT),)),
            Message("tool", "7", tool_call_id="c1", name="weather"),
        ),
    ),
    (
        [
            {"role": "assistant", "tool_calls": [CALL, {"function": {"name": "time", "arguments": {}}}]},
            {"role": "tool", "content": "noon", "tool_name": "time"},
            {"role": "tool", "content": "7"},
        ],
        (
            Message("assistant", "", (ToolCall("call_1", "weather", CALL_TEXT), ToolCall("call_2", "time", "{}"))),
            Message("tool", "noon", tool_call_id="call_2", name="time"),
            Message("tool", "7", tool_call_id="call_1", name="weather"),
        ),
    ),
    ([{"role": "tool", "content": "7", "tool_name": "time"}], (Message("tool", "7", name="time"),)),
    ([{"role": "tool", "content": "7"}], (Message("tool", "7"),)),
]


def test_images_of_a_chat_stand_before_the_text() -> None:
    shown = [{"role": "user", "content": "ab", "images": [base64(png())]}]
    prompt = chat({"model": "seeing", "messages": shown}, SEEING).prompt
    assert prompt == ChatPrompt((Message("user", "ab", images=(ImagePart(png()),)),))
    with pytest.raises(InvalidRequest, match=r"messages\[0\].images\[0\]: this is not base64"):
        chat({"model": "seeing", "messages": [{"role": "user", "images": ["?"]}]}, SEEING)


@pytest.mark.parametrize(("messages", "expected"), MESSAGES, ids=lambda value: str(value)[:60])
def test_messages(messages: list[dict[str, Any]], expected: tuple[Message, ...]) -> None:
    assert chat({"model": "tiny", "messages": messages}).prompt == ChatPrompt(expected)


def test_tools_keep_their_schema_as_text() -> None:
    tools = [{"type": "function", "function": {"name": "weather", "description": "Today's", "parameters": WEATHER}}]
    prompt = chat({"model": "tiny", "messages": HI, "tools": tools}).prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.tools == (Tool("weather", "Today's", json.dumps(WEATHER, separators=(",", ":"))),)


REFUSED_CHATS: list[tuple[Any, type[P2PNetError], str]] = [
    (b"", InvalidRequest, "missing request body"),
    (b"  ", InvalidRequest, "missing request body"),
    (b"[]", InvalidRequest, "input should be an object"),
    (b'{"model":"tiny","messages":' + b"[" * 5000, InvalidRequest, "invalid JSON: recursion limit exceeded"),
    ({"model": None}, InvalidRequest, "model is required"),
    ({"model": ""}, InvalidRequest, "model is required"),
    ({"model": "x" * 300}, InvalidRequest, "model: string should have at most 256 characters"),
    ({"model": "no such"}, ModelNotFound, "model 'no such' not found"),
    ({"messages": "hi"}, InvalidRequest, "messages: input should be a valid array"),
    ({"messages": [{"content": "hi"}]}, InvalidRequest, "messages[0].role: field required"),
    (
        {"messages": [{"role": "", "content": "hi"}]},
        InvalidRequest,
        "messages[0].role: expected `str` of length >= 1",
    ),
    ({"messages": [{"role": "user", "content": [1]}]}, InvalidRequest, "messages[0].content: input should be a valid"),
    ({"messages": [{"role": "user", "images": ["aGk="]}]}, FeatureMissing, "tiny does not support vision"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]},
        InvalidRequest,
        "messages[0].tool_calls[0].function.arguments: input should be an object",
    ),
    (
        b'{"model":"tiny","messages":[{"role":"assistant","tool_calls":'
        b'[{"function":{"name":"f","arguments":{"a":1e999}}}]}]}',
        InvalidRequest,
        "messages[0].tool_calls: a number that JSON does not have",
    ),
    ({"tools": [{"type": "function"}]}, InvalidRequest, "tools[0].function: field required"),
    (
        {"tools": [{"function": {"name": "f" * 129}}]},
        InvalidRequest,
        "tools[0].name: expected `str` of length <= 128",
    ),
    (
        {"think": "deep"},
        InvalidRequest,
        'invalid think value: "deep" (must be "max", "high", "medium", "low", true, or false)',
    ),
    ({"think": 1}, InvalidRequest, "think must be a boolean or string"),
    ({"format": "yaml"}, InvalidRequest, 'invalid format: expected "json" or a valid JSON Schema object'),
    ({"format": []}, InvalidRequest, 'invalid format: expected "json" or a valid JSON Schema object'),
    ({"format": {"a": "x" * 70_000}}, InvalidRequest, "format: expected `str` of length <= 65536"),
    ({"top_logprobs": 21}, InvalidRequest, "top_logprobs must be between 0 and 20"),
    ({"options": []}, InvalidRequest, "options: input should be an object"),
    ({"keep_alive": "soon"}, InvalidRequest, 'time: invalid duration "soon"'),
    ({"keep_alive": "1" * 60 + "x"}, InvalidRequest, "time: invalid duration"),
    ({"keep_alive": []}, InvalidRequest, "keep_alive: a duration as a string, or a number of seconds"),
    ({"_debug_render_only": True}, InvalidRequest, "_debug_render_only: the template stays with the worker"),
]


@pytest.mark.parametrize(("body", "error", "message"), REFUSED_CHATS, ids=lambda value: str(value)[:60])
def test_refused_chats(body: Any, error: type[P2PNetError], message: str) -> None:
    if isinstance(body, dict):
        body = {"model": "tiny", "messages": HI, **body}
    with pytest.raises(P2PNetError) as refused:
        chat(body, None if "no such" in message else TINY)
    assert type(refused.value) is error
    assert message in str(refused.value)


TURNS = (Turn("system", "be brief"), Turn("user", "hi"), Turn("assistant", "hello"))
CONTEXT = encode_context(TURNS)

PROMPTS: list[tuple[dict[str, Any], ModelEntry, ChatPrompt | TextPrompt]] = [
    ({}, TINY, ChatPrompt((Message("user", "more"),))),
    ({"system": "be brief"}, TINY, ChatPrompt((Message("system", "be brief"), Message("user", "more")))),
    ({"raw": True}, TINY, TextPrompt("more")),
    ({"suffix": "end"}, CODER, TextPrompt("more", "end")),
    (
        {"images": [base64(png()), base64(gif(2))]},
        SEEING,
        ChatPrompt((Message("user", "more", images=(ImagePart(png()), ImagePart(gif()))),)),
    ),
    (
        {"images": [base64(png())], "context": encode_context((Turn("user", "hi"),))},
        SEEING,
        ChatPrompt((Message("user", "hi"), Message("user", "more", images=(ImagePart(png()),)))),
    ),
    (
        {"template": "", "suffix": "", "system": "", "context": [], "images": []},
        TINY,
        ChatPrompt((Message("user", "more"),)),
    ),
    (
        {"context": CONTEXT},
        TINY,
        ChatPrompt((*(Message(turn.role, turn.content) for turn in TURNS), Message("user", "more"))),
    ),
    (
        {"context": CONTEXT, "system": "be long"},
        TINY,
        ChatPrompt(
            (
                Message("system", "be long"),
                Message("user", "hi"),
                Message("assistant", "hello"),
                Message("user", "more"),
            )
        ),
    ),
    ({}, BASE, TextPrompt("more")),
    ({"context": encode_context(TURNS[1:])}, BASE, TextPrompt("hihellomore")),
]


@pytest.mark.parametrize(("body", "entry", "prompt"), PROMPTS, ids=lambda value: str(value)[:60])
def test_prompts_of_generate(body: dict[str, Any], entry: ModelEntry, prompt: ChatPrompt | TextPrompt) -> None:
    assert generate({"model": entry.id, "prompt": "more", **body}, entry).prompt == prompt


REFUSED_PROMPTS: list[tuple[dict[str, Any], ModelEntry, str]] = [
    ({"raw": True, "system": "x"}, TINY, "raw mode does not support template, system, or context"),
    ({"raw": True, "context": [1]}, TINY, "raw mode does not support template, system, or context"),
    ({"template": "{{ .Prompt }}"}, TINY, "template: not supported here"),
    ({"suffix": "x"}, TINY, "does not support insert"),
    ({"suffix": "x", "system": "y"}, CODER, "suffix: goes with neither system nor context"),
    ({"images": ["aGk="]}, TINY, "does not support vision"),
    ({"images": [base64(png())]}, BASE, "does not support vision"),
    ({"images": ["aGk="]}, SEEING, "images[0]: This is no image that can be read here: send PNG, JPEG, WebP or GIF."),
    ({"images": ["a?"]}, SEEING, "images[0]: this is not base64"),
    ({"images": [7]}, SEEING, "images[0]: input should be a valid string"),
    ({"images": ["aGk="] * (MAX_IMAGES + 1)}, SEEING, "images: list should have at most 16 items"),
    ({"images": [base64(png())], "raw": True}, SEEING, "images: go with neither raw nor suffix"),
    ({"system": "x"}, BASE, "does not support system"),
    ({}, VECTORS, '"vectors" does not support generate'),
    ({"context": [1, 2, 3]}, TINY, "context: not one that this gateway has given"),
    ({"context": [-1]}, TINY, "context: not one that this gateway has given"),
    ({"context": [1 << 80]}, TINY, "context: not one that this gateway has given"),
    ({"context": [*(CONTEXT or []), 1]}, TINY, "context: not one that this gateway has given"),
    ({"context": [0] * MAX_CONTEXT_BYTES}, TINY, "context: more than"),
    ({"context": ["a"]}, TINY, "context[0]: input should be a valid integer"),
]


@pytest.mark.parametrize(("body", "entry", "message"), REFUSED_PROMPTS, ids=lambda value: str(value)[:60])
def test_refused_prompts(body: dict[str, Any], entry: ModelEntry, message: str) -> None:
    with pytest.raises((InvalidRequest, FeatureMissing)) as refused:
        generate({"model": entry.id, "prompt": "more", **body}, entry)
    assert message in str(refused.value)


def test_a_chat_with_an_embedding_model_is_refused_in_ollamas_words() -> None:
    with pytest.raises(FeatureMissing, match=r'^"vectors" does not support chat$'):
        chat({"model": "vectors", "messages": HI}, VECTORS)


ORDERS: list[tuple[dict[str, Any], str | None]] = [
    ({}, "load"),
    ({"keep_alive": "5m"}, "load"),
    ({"keep_alive": -1}, "load"),
    ({"keep_alive": "1h30m"}, "load"),
    ({"keep_alive": 0}, "unload"),
    ({"keep_alive": 0.0}, "unload"),
    ({"keep_alive": "0"}, "unload"),
    ({"keep_alive": "0s"}, "unload"),
    ({"keep_alive": 0, "prompt": "hi"}, None),
]


@pytest.mark.parametrize(("body", "order"), ORDERS, ids=str)
def test_no_prompt_is_an_order(body: dict[str, Any], order: str | None) -> None:
    assert schema.parse(schema.GenerateBody, encoded({"model": "tiny", **body})).order == order
    messages = HI if "prompt" in body else []
    assert schema.parse(schema.ChatBody, encoded({"model": "tiny", "messages": messages, **body})).order == order


NAMES: list[tuple[str, ModelEntry | None, str]] = [
    ("tiny", TINY, "tiny"),
    ("tiny:latest", TINY, "tiny"),
    ("unheard-of:latest", None, "unheard-of"),
    ("unheard-of:8b", None, "unheard-of:8b"),
]


@pytest.mark.parametrize(("name", "entry", "asked"), NAMES)
def test_the_model_that_is_asked_for(name: str, entry: ModelEntry | None, asked: str) -> None:
    assert chat({"model": name, "messages": HI}, entry).model == asked


def test_embedding_inputs() -> None:
    assert embed({"model": "v", "input": "one"}).inputs == (TextPrompt("one"),)
    two = embed({"model": "v:latest", "input": ["one", "two"], "dimensions": 8, "truncate": True}, VECTORS)
    assert two == EmbedRequest("request-1", "vectors", (TextPrompt("one"), TextPrompt("two")), 8)
    assert embed({"model": "v", "input": "one", "dimensions": 0}).dimensions is None


@pytest.mark.parametrize("nothing", [None, "", []])
def test_no_input_is_no_text(nothing: Any) -> None:
    assert schema.parse(schema.EmbedBody, encoded({"model": "v", "input": nothing})).texts() == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": 1}, "invalid input type"),
        ({"input": [[1, 2]]}, "invalid input type"),
        ({"input": ["x"] * 2049}, "input: at most 2048 texts"),
        ({"input": "x", "dimensions": -1}, "dimensions: expected `int` >= 1"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused_embeddings(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        embed({"model": "v", **body})
    assert str(refused.value) == message


@pytest.mark.parametrize("body", [{}, {"model": ""}, {"model": None, "prompt": "hi"}])
def test_to_generate_with_no_model_is_not_found_as_ollama_has_it(body: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFound, match=r"^model '' not found$"):
        generate(body)


def test_a_model_that_only_generates_embeds_nothing() -> None:
    with pytest.raises(FeatureMissing, match=r"^this model does not support embeddings$"):
        embed({"model": "tiny", "input": "x"}, TINY)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [*schema.GenerateBody.model_fields, *schema.ChatBody.model_fields, "input", "dimensions", "name"]
OPTION_NAMES = [*OUR_NAMES, "top_k", "seed", "stop", "num_predict", "num_ctx", "repeat_last_n"]
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "system"])},
    optional={
        "content": JSON_VALUES,
        "tool_name": st.none() | st.text(max_size=3),
        "tool_call_id": st.none() | st.text(max_size=3),
        "tool_calls": st.lists(
            st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.text(), "arguments": JSON_VALUES})})
            | JSON_VALUES,
            max_size=3,
        ),
    },
)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=6) | st.fixed_dictionaries(
    {"model": st.sampled_from(["tiny", "tiny:latest", "a b"]), "prompt": st.text(max_size=5)},
    optional={
        "messages": st.lists(MESSAGE, max_size=4),
        "options": st.dictionaries(st.sampled_from(OPTION_NAMES), JSON_VALUES, max_size=4),
        "context": st.lists(st.integers(0, 70_000), max_size=6),
        "format": JSON_VALUES,
        "keep_alive": JSON_VALUES,
        "system": st.text(max_size=5),
        "input": st.lists(st.text(max_size=5), max_size=3),
    },
)


@given(BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=80))
def test_a_body_is_understood_or_refused(raw: bytes) -> None:
    """Whatever a stranger sends: a request, or an error on purpose."""
    for read in (chat, generate, embed):
        try:
            read(raw)
        except P2PNetError as refused:
            assert 0 < len(str(refused)) < 400


@given(st.lists(st.builds(Turn, st.sampled_from(["system", "user", "assistant"]), st.text()), max_size=5))
def test_a_context_is_the_conversation(turns: list[Turn]) -> None:
    numbers = encode_context(turns)
    assert numbers is not None
    assert all(0 <= number < 1 << 16 for number in numbers)
    assert decode_context(numbers) == tuple(turns)


@given(st.lists(st.integers(0, (1 << 16) - 1), max_size=20))
def test_other_numbers_are_refused(numbers: list[int]) -> None:
    for given_numbers in (numbers, [*(CONTEXT or [])[:2], *numbers]):
        try:
            decode_context(given_numbers)
        except InvalidRequest as refused:
            assert refused.param == "context"


def test_a_conversation_that_is_too_long_has_no_context() -> None:
    assert encode_context([Turn("user", "x" * MAX_CONTEXT_BYTES)]) is None
    longest = encode_context([Turn("user", "x" * (MAX_CONTEXT_BYTES - 20))])
    assert longest is not None
    assert decode_context(longest)
