"""OpenAI bodies to canonical requests, as tables: what is understood, and what is refused under which name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.surfaces.openai.chat import chat_request, parse_chat
from gateway.surfaces.openai.completion import MAX_PROMPTS, completion_requests, parse_completion
from gateway.surfaces.openai.schema import UNSUPPORTED
from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat, RegexFormat
from p2pnet.errors import InvalidRequest, ModelNotFound
from p2pnet.messages import (
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    ChatPrompt,
    GenerateRequest,
    ImagePart,
    Message,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
)
from tests.images import data_url, gif, png

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
HI_PROMPT = ChatPrompt((Message("user", "hi"),))
SEED = 42


def chat(body: Any) -> GenerateRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chat_request(parse_chat(raw), "request-1", lambda: SEED)


def completions(body: Any) -> tuple[GenerateRequest, ...]:
    return completion_requests(parse_completion(json.dumps(body).encode()), "tiny", "request-1", lambda: SEED)


def completion(body: Any) -> GenerateRequest:
    (only,) = completions(body)
    return only


def expected(prompt: Prompt, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    return GenerateRequest("request-1", "tiny", prompt, Sampling(**{"seed": SEED, **(sampling or {})}), **fields)


WEATHER = {"type": "object", "properties": {"place": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a place", "parameters": WEATHER}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Oslo"}'}}

SHOWN = {"type": "image_url", "image_url": {"url": data_url(png()), "detail": "low"}}


def shows(image_url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": image_url}]}]


CHAT_ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 0}, {"sampling": {"temperature": 0.0}}),
    ({"temperature": None, "top_p": None, "seed": None, "stop": None, "n": None}, {}),
    (
        {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
        {"sampling": {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1}},
    ),
    (
        {"presence_penalty": -2, "frequency_penalty": 2},
        {"sampling": {"presence_penalty": -2.0, "frequency_penalty": 2.0}},
    ),
    ({"top_k": -1}, {"sampling": {"top_k": 0}}),
    ({"temperature": 2}, {"sampling": {"temperature": 2.0}}),
    ({"temperature": 1, "top_p": 0}, {"sampling": {"temperature": 0.0}}),
    ({"seed": 0}, {"sampling": {"seed": 0}}),
    ({"seed": -1}, {"sampling": {"seed": (1 << 63) - 1}}),
    ({"seed": (1 << 63) + 5}, {"sampling": {"seed": 5}}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
    ({"stop": "end"}, {"stop": ("end",)}),
    ({"stop": ["a", "b"]}, {"stop": ("a", "b")}),
    ({"stop": []}, {}),
    ({"stop_token_ids": [1, 2], "ignore_eos": True}, {"stop_token_ids": (1, 2), "ignore_eos": True}),
    ({"user": "someone", "metadata": {"a": "b"}, "store": True, "no_such_field": [1]}, {}),
    ({"n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}}, {}),
    ({"tools": [{"type": "web_search"}], "web_search_options": {"search_context_size": "low"}}, {}),
    ({"tools": [], "functions": [], "response_format": {"type": "text"}, "modalities": ["text"]}, {}),
    ({"n": 3}, {"n": 3}),
    ({"n": 128}, {"n": 128}),
    ({"min_tokens": 2}, {"min_tokens": 2}),
    ({"logprobs": True}, {"logprobs": 0}),
    ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
    ({"logit_bias": {"5": 1, "70": -99.5}}, {"sampling": {"logit_bias": {5: 1.0, 70: -99.5}}}),
    ({"response_format": {"type": "json_object"}}, {"response_format": JsonFormat()}),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, {"response_format": JsonFormat()}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "strict": True, "schema": {"a": [1]}},
            }
        },
        {"response_format": JsonSchemaFormat('{"a":[1]}')},
    ),
    (
        {"response_format": {"type": "json_object", "schema": {"a": [1]}}},
        {"response_format": JsonSchemaFormat('{"a":[1]}')},
    ),
    ({"json_schema": {"a": [1]}}, {"response_format": JsonSchemaFormat('{"a":[1]}')}),
    ({"json_schema": '{"a": [1]}'}, {"response_format": JsonSchemaFormat('{"a": [1]}')}),
    ({"guided_json": {"a": [1]}}, {"response_format": JsonSchemaFormat('{"a":[1]}')}),
    ({"regex": "a+/b"}, {"response_format": RegexFormat("a+/b")}),
    ({"guided_regex": "a+"}, {"response_format": RegexFormat("a+")}),
    ({"guided_choice": ["yes", "n.o"]}, {"response_format": RegexFormat(r"yes|n\.o")}),
    ({"regex": "", "guided_choice": []}, {}),
    (UNSUPPORTED, {}),
    ({"dry_multiplier": 0.0, "dry_base": 1.75, "typical_p": 1.0, "mirostat_tau": 5, "guided_choice": []}, {}),
    ({"reasoning_effort": "low", "service_tier": "auto", "prediction": {}, "verbosity": "low"}, {}),
    ({"parallel_tool_calls": False, "tool_choice": "auto"}, {}),
    ({"guided_json": None, "use_beam_search": False}, {}),
    ({"stream": True, "stream_options": {"include_usage": True}}, {}),
]

CHAT_REFUSED: list[tuple[dict[str, Any], str]] = [
    # Types are strict.
    ({"temperature": "1"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 5.0}, "max_tokens"),
    ({"seed": 1.5}, "seed"),
    ({"stream": 1}, "stream"),
    ({"stream": "true"}, "stream"),
    ({"n": True}, "n"),
    ({"user": 7}, "user"),
    ({"stop": 4}, "stop"),
    ({"stop": ["a", 4]}, "stop"),
    ({"stop_token_ids": [True]}, "stop_token_ids"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    # Bounds are those of the canonical request.
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 0}, "max_completion_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    # What would change the answer, and is not there.
    ({"n": 0}, "n"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"grammar": 'root ::= "a"'}, "grammar"),
    ({"ebnf": 'root ::= "a"'}, "ebnf"),
    ({"regex": "a" * 5000}, "regex"),
    ({"regex": "a+", "guided_choice": ["a"]}, "guided_choice"),
    ({"guided_choice": "a"}, "guided_choice"),
    ({"json_schema": {"a": 1}, "response_format": {"type": "json_object"}}, "json_schema"),
    ({"json_schema": ""}, "json_schema"),
    ({"prompt_logprobs": 0}, "prompt_logprobs"),
    ({"echo": True}, "echo"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"skip_special_tokens": False}, "skip_special_tokens"),
    ({"length_penalty": 1.2}, "length_penalty"),
    ({"typical_p": 0.5}, "typical_p"),
    ({"mirostat": 2}, "mirostat"),
    ({"dry_multiplier": 0.8, "dry_base": 1.75}, "dry_multiplier"),
    ({"repeat_penalty": 1.1}, "repeat_penalty"),
    ({"logprob_token_ids": [5]}, "logprob_token_ids"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
    ({"n": 129}, "n"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {"1_0": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"5": "1"}}, "logit_bias"),
    ({"logit_bias": {"5": True}}, "logit_bias"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": []}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"a": "x" * 70_000}}}}, "response_format"),
    # Tools.
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [TOOL, {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
    ({"tools": [TOOL] * 257}, "tools"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": 5}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "name": "weather"}}, "tool_choice"),
    ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
    # Messages.
    ({"messages": [*HI, {"role": "tool", "content": "hi"}]}, "messages[1].tool_call_id"),
    ({"messages": [*HI, {"role": "tool", "tool_call_id": "a"}]}, "messages[1].content"),
    ({"messages": [*HI, {"role": "function", "name": "f", "content": "hi"}]}, "messages[1].role"),
    ({"messages": [*HI, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[1].tool_calls[0].id"),
    ({"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[1].tool_calls[0].function"),
    ({"messages": [{"role": "user", "content": "", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
    ({"messages": [*HI, {"role": "assistant", "function_call": {"name": "f"}}]}, "messages[1].function_call"),
    ({"messages": [{"role": "user", "content": "a", "name": "x" * 129}]}, "messages[0].name"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [*HI, {"role": "robot", "content": "hi"}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "assistant", "content": None}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "system", "content": [SHOWN]}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "assistant", "content": [SHOWN]}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
    ({"messages": shows({"detail": "low"})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": 5})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": "https://example.org/a.png"})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": "file:///etc/passwd"})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": "data:image/png,abc"})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": "data:image/png;base64,a?"})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": data_url(b"hi")})}, "messages[0].content[0].image_url"),
    ({"messages": shows({"url": data_url(png() + bytes(MAX_IMAGE_BYTES))})}, "messages[0].content[0].image_url"),
    ({"messages": [{"role": "user", "content": [SHOWN] * (MAX_IMAGES + 1)}]}, "messages[0].images"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
]

MESSAGES: list[tuple[list[dict[str, Any]], tuple[Message, ...]]] = [
    ([{"role": "developer", "content": "be brief"}, *HI], (Message("system", "be brief"), Message("user", "hi"))),
    ([{"role": "user", "content": ""}], (Message("user", ""),)),
    ([{"role": "user", "content": []}], (Message("user", ""),)),
    (
        [{"role": "user", "content": [{"type": "text", "text": "ab"}, SHOWN, {"type": "text", "text": "c"}, SHOWN]}],
        (Message("user", "abc", images=(ImagePart(png(), 2), ImagePart(png(), 3))),),
    ),
    (shows({"url": data_url(gif(3), "image/jpeg;charset=x")}), (Message("user", "", images=(ImagePart(gif()),)),)),
    (
        [
            *HI,
            {"role": "assistant", "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [SHOWN]},
        ],
        (
            Message("user", "hi"),
            Message("assistant", "", (ToolCall("call_1", "weather", '{"place": "Oslo"}'),)),
            Message("tool", "", tool_call_id="call_1", images=(ImagePart(png()),)),
        ),
    ),
    ([{"role": "user", "name": "Ann", "content": "hi"}], (Message("user", "hi", name="Ann"),)),
    ([{"role": "user", "name": "", "content": "hi", "tool_calls": None}], (Message("user", "hi"),)),
    (
        [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "sunny"}]},
        ],
        (
            Message("user", "hi"),
            Message("assistant", "", (ToolCall("call_1", "weather", '{"place": "Oslo"}'),)),
            Message("tool", "sunny", tool_call_id="call_1"),
        ),
    ),
    ([*HI, {"role": "assistant", "refusal": "No."}], (Message("user", "hi"), Message("assistant", "No."))),
    (
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "tool_calls": []}],
        (Message("assistant", "No."),),
    ),
    (
        [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        (Message("user", "ab"),),
    ),
    ([{"role": "user", "content": "\u0000\u2028\U0001f600"}], (Message("user", "\u0000\u2028\U0001f600"),)),
]

NOT_A_BODY: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"[]", None),
    (b'"hi"', None),
    (b"\xff\xfe", None),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', None),
    (b'{"model": "tiny", "messages": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}', "temperature"),
    (b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}', "temperature"),
    (b'{"messages": [{"role": "user", "content": "a"}]}', "model"),
    (b'{"model": null, "messages": [{"role": "user", "content": "a"}]}', "model"),
    (b'{"model": "tiny"}', "messages"),
]

PROMPTS: list[tuple[Any, Prompt]] = [
    ("Once", TextPrompt("Once")),
    ("", TextPrompt("")),
    (["Once"], TextPrompt("Once")),
    ([""], TextPrompt("")),
    ([5, 6], TokenPrompt((5, 6))),
    ([[5, 6]], TokenPrompt((5, 6))),
]

COMPLETION_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"ebnf": 'root ::= "a"'}, "ebnf"),
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [1, True]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.0]}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"prompt": ["a", [1.5]]}, "prompt"),
    ({"prompt": ["a"] * (MAX_PROMPTS + 1)}, "prompt"),
    ({"best_of": 2}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"n": 129}, "n"),
    ({"prompt": [1, 2], "suffix": "end"}, "suffix"),
    ({"echo": "yes"}, "echo"),
    ({"max_tokens": 0}, "max_tokens"),
]


@pytest.mark.parametrize(("fields", "want"), CHAT_ACCEPTED, ids=lambda value: str(value)[:60])
def test_chat_fields(fields: dict[str, Any], want: dict[str, Any]) -> None:
    assert chat({"model": "tiny", "messages": HI, **fields}) == expected(HI_PROMPT, **want)


@pytest.mark.parametrize(("fields", "param"), CHAT_REFUSED, ids=lambda value: str(value)[:60])
def test_chat_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat({"model": "tiny", "messages": HI, **fields})
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


@pytest.mark.parametrize(("messages", "want"), MESSAGES, ids=lambda value: str(value)[:60])
def test_messages(messages: list[dict[str, Any]], want: tuple[Message, ...]) -> None:
    assert chat({"model": "tiny", "messages": messages}) == expected(ChatPrompt(want))


@pytest.mark.parametrize(("raw", "param"), NOT_A_BODY, ids=lambda value: str(value)[:60])
def test_what_is_not_a_body(raw: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(raw)
    assert refused.value.param == param


@pytest.mark.parametrize(("prompt", "want"), PROMPTS, ids=lambda value: str(value)[:60])
def test_prompts(prompt: Any, want: Prompt) -> None:
    assert completion({"model": "tiny", "prompt": prompt}) == expected(want, max_tokens=16)


@pytest.mark.parametrize(("fields", "param"), COMPLETION_REFUSED, ids=lambda value: str(value)[:60])
def test_completion_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        completion({"model": "tiny", "prompt": "a", **fields})
    assert refused.value.param == param


OTHER_TOOL = {"type": "function", "function": {"name": "time"}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


TOOLS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"tool_choice": "auto"}, {}),
    (
        {"tool_choice": "required", "parallel_tool_calls": False},
        {"tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        {"tool_choice": "required", "required_tool": "weather"},
    ),
    (
        {"tool_choice": allowed("required", "weather"), "tools": [TOOL, OTHER_TOOL]},
        {"tool_choice": "required"},
    ),
    ({"tool_choice": allowed("auto", "weather"), "tools": [OTHER_TOOL, TOOL]}, {}),
]


@pytest.mark.parametrize(("fields", "want"), TOOLS, ids=lambda value: str(value)[:60])
def test_tools(fields: dict[str, Any], want: dict[str, Any]) -> None:
    tool = Tool("weather", "Of a place", json.dumps(WEATHER, separators=(",", ":")))
    prompt = ChatPrompt(HI_PROMPT.messages, (tool,), **want)
    assert chat({"model": "tiny", "messages": HI, "tools": [TOOL], **fields}) == expected(prompt)


def test_tools_that_must_not_be_called_are_left_out() -> None:
    """So a model that has none can answer."""
    assert chat({"model": "tiny", "messages": HI, "tools": [TOOL], "tool_choice": "none"}) == expected(HI_PROMPT)


def test_a_tool_without_parameters_takes_none() -> None:
    request = chat({"model": "tiny", "messages": HI, "tools": [{"type": "function", "function": {"name": "now"}}]})
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.tools == (Tool("now", "", '{"type":"object","properties":{}}'),)


def test_several_prompts_are_several_requests() -> None:
    asked = {"model": "tiny", "prompt": ["a", [1, 2], "c"], "n": 2, "best_of": 2, "logprobs": 5, "echo": True}
    requests = completions(asked)
    assert [request.prompt for request in requests] == [TextPrompt("a"), TokenPrompt((1, 2)), TextPrompt("c")]
    assert [request.request_id for request in requests] == ["request-1", "request-1-1", "request-1-2"]
    assert {(request.n, request.logprobs, request.echo) for request in requests} == {(2, 5, True)}


def test_a_suffix_makes_gaps_to_fill() -> None:
    requests = completions({"model": "tiny", "prompt": ["a", "b"], "suffix": "end"})
    assert [request.prompt for request in requests] == [TextPrompt("a", "end"), TextPrompt("b", "end")]


def test_prompts_without_a_seed_get_one_each_and_those_with_one_the_same() -> None:
    seeds = iter(range(10))

    def seeds_of(**fields: Any) -> list[int]:
        body = parse_completion(json.dumps({"model": "tiny", "prompt": ["a", "a"], **fields}).encode())
        return [request.sampling.seed for request in completion_requests(body, "tiny", "r" * 128, lambda: next(seeds))]

    assert seeds_of() == [0, 1]
    assert seeds_of(seed=7) == [7, 7]


@pytest.mark.parametrize("model", ["", "two words", "x" * 129, "-x", "é"])
def test_a_name_that_no_model_can_have_is_not_found(model: str) -> None:
    with pytest.raises(ModelNotFound) as refused:
        chat({"model": model, "messages": HI})
    assert refused.value.param == "model"


@pytest.mark.parametrize("field", ["messages", "content", "prompt"])
def test_a_long_list_of_wrong_things_is_one_error(field: str) -> None:
    wrong = [0.5] * 100_000
    body: dict[str, Any] = {"model": "tiny", field: wrong}
    if field == "content":
        body = {"model": "tiny", "messages": [{"role": "user", "content": wrong}]}
    with pytest.raises(InvalidRequest) as refused:
        (completion if field == "prompt" else chat)(body)
    assert len(refused.value.message) < 200
