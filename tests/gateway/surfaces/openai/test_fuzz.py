"""Whatever a stranger sends as a body, OpenAI's surface understands it or refuses it, and never does anything else."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.surfaces.openai.chat import chat_request, parse_chat
from gateway.surfaces.openai.completion import completion_requests, parse_completion
from gateway.surfaces.openai.embedding import embed_request, parse_embedding
from gateway.surfaces.openai.response_render import ObjectHead
from gateway.surfaces.openai.response_store import ResponseStore
from gateway.surfaces.openai.response_stream import ResponseStream
from gateway.surfaces.openai.response_tools import offered_tools
from gateway.surfaces.openai.responses import conversation_of, parse_response, response_request
from p2pnet.errors import P2PNetError
from p2pnet.messages import Accepted, Finished, TextDelta, Usage
from tests.depth import examples

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
ANY = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
FUNCTION = {"name": "weather", "description": "Of a place", "parameters": {"type": "object"}, "strict": True}
SCHEMA = {"name": "x", "schema": {"type": "object"}, "strict": True}
COMMON = {
    "model": "tiny",
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 4,
    "seed": -1,
    "stop": ["a", "b"],
    "stop_token_ids": [1],
    "min_tokens": 1,
    "logit_bias": {"5": 1.5},
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "someone",
}
CHAT: dict[str, Any] = {
    **COMMON,
    "messages": [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ],
    "n": 2,
    "max_completion_tokens": 9,
    "logprobs": True,
    "top_logprobs": 2,
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": SCHEMA},
}
COMPLETION = {**COMMON, "prompt": ["a", [1, 2]], "n": 2, "best_of": 2, "max_tokens": 9, "logprobs": 2, "echo": True}
EMBEDDING = {"model": "tiny", "input": ["a", [1, 2]], "encoding_format": "base64", "dimensions": 4}
RESPONSE: dict[str, Any] = {
    **COMMON,
    "instructions": "be brief",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ],
    "max_output_tokens": 9,
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "tools": [{"type": "function", **FUNCTION}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", **SCHEMA}},
    "metadata": {"a": "b"},
}
GOOD = (CHAT, COMPLETION, EMBEDDING, RESPONSE)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a body, with each key or index in it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A good body, of which up to three values are something else, or missing."""
    body = copy.deepcopy(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(places(body)))
        if draw(st.booleans()):
            container[key] = draw(ANY)
        else:
            del container[key]
    return json.dumps(body).encode()


def take(raw: bytes) -> int:
    """How many of the four parsers understand it. What they understand is a canonical request in all its bounds."""
    understood = 0
    for parse in (_chat, _completions, _embeddings, _response):
        try:
            requests = parse(raw)
        except P2PNetError as error:
            assert len(str(error)) < 1000
        else:
            understood += 1
            for request in requests:
                assert msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=type(request)) == request
    return understood


def _chat(raw: bytes) -> tuple[Any, ...]:
    return (chat_request(parse_chat(raw), "request-1", lambda: 42),)


def _completions(raw: bytes) -> tuple[Any, ...]:
    body = parse_completion(raw)
    return completion_requests(body, body.model or "tiny", "request-1", lambda: 42)


def _embeddings(raw: bytes) -> tuple[Any, ...]:
    return (embed_request(parse_embedding(raw), "request-1"),)


def _response(raw: bytes) -> tuple[Any, ...]:
    body = parse_response(raw)
    offered = offered_tools(body.tools or ())
    request = response_request(
        body, conversation_of(body, ResponseStore(1.0, lambda: 0.0), "x"), offered, "request-1", lambda: 42
    )
    ResponseStream(ObjectHead("1", 1, body, offered)).render(
        [Accepted(1), TextDelta("a"), Finished("stop", Usage(1, 1))]
    )
    return (request,)


@given(spoilt())
@settings(max_examples=examples(300), deadline=None, derandomize=True)
def test_any_body(raw: bytes) -> None:
    take(raw)


@given(st.binary(max_size=60) | ANY.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=examples(100), deadline=None, derandomize=True)
def test_any_bytes(raw: bytes) -> None:
    take(raw)


def test_good_bodies_are_understood() -> None:
    """So what is fuzzed is near to what is understood."""
    assert [take(json.dumps(body).encode()) for body in GOOD] == [1, 1, 1, 1]
