"""OpenAI bodies to canonical requests, as tables: what is understood, and what is refused under which name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.surfaces.openai_schema import chat_request, completion_request, parse_chat, parse_completion
from p2pnet.errors import InvalidRequest, ModelNotFound
from p2pnet.messages import ChatPrompt, GenerateRequest, Message, Prompt, Sampling, TextPrompt, TokenPrompt

HI: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
HI_PROMPT = ChatPrompt((Message("user", "hi"),))
SEED = 42


def chat(body: Any) -> GenerateRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chat_request(parse_chat(raw), "request-1", lambda: SEED)


def completion(body: Any) -> GenerateRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return completion_request(parse_completion(raw), "request-1", lambda: SEED)


def expected(prompt: Prompt, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    return GenerateRequest("request-1", "tiny", prompt, Sampling(**{"seed": SEED, **(sampling or {})}), **fields)


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
    ({"tools": [], "functions": [], "response_format": {"type": "text"}, "modalities": ["text"]}, {}),
    ({"tools": [{"type": "function"}], "tool_choice": "none"}, {}),
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
    ({"top_p": 0}, "top_p"),
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
    ({"n": 2}, "n"),
    ({"n": 0}, "n"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"logit_bias": {"5": 1}}, "logit_bias"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": {"name": "f"}}, "function_call"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "x"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    # Messages.
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"messages": [*HI, {"role": "robot", "content": "hi"}]}, "messages[1].role"),
    ({"messages": [*HI, {"role": "tool", "content": "hi"}]}, "messages[1].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [*HI, {"role": "assistant", "content": None}]}, "messages[1].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
    ({"messages": [*HI, {"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[1].tool_calls"),
]

MESSAGES: list[tuple[list[dict[str, Any]], tuple[Message, ...]]] = [
    ([{"role": "developer", "content": "be brief"}, *HI], (Message("system", "be brief"), Message("user", "hi"))),
    ([{"role": "user", "content": ""}], (Message("user", ""),)),
    ([{"role": "user", "content": []}], (Message("user", ""),)),
    ([{"role": "user", "name": "Ann", "content": "hi"}], (Message("user", "hi"),)),
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
    ([5, 6], TokenPrompt((5, 6))),
    ([[5, 6]], TokenPrompt((5, 6))),
]

COMPLETION_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", "b"]}, "prompt"),
    ({"prompt": [[1], [2]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [1, True]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [1.0]}, "prompt"),
    ({"best_of": 2}, "best_of"),
    ({"n": 3}, "n"),
    ({"logprobs": 0}, "logprobs"),
    ({"suffix": "end"}, "suffix"),
    ({"echo": True}, "echo"),
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
