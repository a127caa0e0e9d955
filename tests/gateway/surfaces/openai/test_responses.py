"""OpenAI's responses: bodies to canonical requests, and generations to response objects and typed events, as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import pytest

from gateway.http.collected import Collecting
from gateway.http.failures import failure
from gateway.http.replies import AnswerEvent
from gateway.interface import Waiting
from gateway.surfaces.openai.response_render import ObjectHead, render_response
from gateway.surfaces.openai.response_store import ResponseStore
from gateway.surfaces.openai.response_stream import ResponseStream
from gateway.surfaces.openai.response_tools import NOTE, offered_tools
from gateway.surfaces.openai.responses import ResponseBody, conversation_of, parse_response, response_request
from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.errors import InvalidRequest, ModelNotFound
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    Sampling,
    TextDelta,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.images import data_url, png

DIGEST = "sha256:" + "ab" * 32
HI = ChatPrompt((Message("user", "hi"),))
SCHEMA = {"type": "object"}
TOOL = {"type": "function", "name": "weather", "description": "Of a place", "parameters": SCHEMA, "strict": True}
TOOLS = (Tool("weather", "Of a place", '{"type":"object"}'),)
OTHER = {"type": "function", "name": "time"}
NAMED = {"type": "function", "name": "weather"}
GROUP = {"type": "namespace", "name": "group", "description": "d", "tools": [TOOL]}
PATCH = {"type": "custom", "name": "patch", "description": "Of files", "format": {"type": "grammar"}}
FREE_FORM = '{"type":"object","properties":{"input":{"type":"string"}},"required":["input"]}'
PATCH_SHOWN = Tool("patch", "Of files", FREE_FORM)
CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
SHOWN = {"type": "input_image", "image_url": data_url(png()), "detail": "auto"}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}


def body_of(**fields: Any) -> ResponseBody:
    return parse_response(json.dumps({"model": "tiny", "input": "hi", **fields}).encode())


def request(**fields: Any) -> GenerateRequest:
    body = body_of(**fields)
    items = conversation_of(body, ResponseStore(3600.0, lambda: 0.0), "somebody")
    return response_request(body, items, offered_tools(body.tools or ()), "request-1", lambda: 42)


def expected(prompt: ChatPrompt = HI, sampling: dict[str, Any] | None = None, **fields: Any) -> GenerateRequest:
    return GenerateRequest("request-1", "tiny", prompt, Sampling(**{"seed": 42, **(sampling or {})}), **fields)


ACCEPTED: list[tuple[dict[str, Any], GenerateRequest]] = [
    ({}, expected()),
    ({"temperature": 0.5, "top_p": 0.9, "seed": 7}, expected(sampling={"temperature": 0.5, "top_p": 0.9, "seed": 7})),
    ({"max_output_tokens": 9, "stop": ["x"], "top_k": 4}, expected(max_tokens=9, stop=("x",), sampling={"top_k": 4})),
    ({"instructions": "be brief"}, expected(ChatPrompt((Message("system", "be brief"), *HI.messages)))),
    ({"instructions": "be brief", "input": []}, expected(ChatPrompt((Message("system", "be brief"),)))),
    ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, expected()),
    ({"text": {"format": {"type": "json_object"}}}, expected(response_format=JsonFormat())),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True}}},
        expected(response_format=JsonSchemaFormat('{"type":"object"}')),
    ),
    ({"tools": [TOOL]}, expected(ChatPrompt(HI.messages, TOOLS))),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}, "parallel_tool_calls": False},
        expected(ChatPrompt(HI.messages, TOOLS, "required", "weather", False)),
    ),
    ({"tools": [TOOL], "tool_choice": "none"}, expected()),
    ({"tools": [TOOL, {"type": "web_search", "external_web_access": False}]}, expected(ChatPrompt(HI.messages, TOOLS))),
    ({"tools": [{"type": "mcp", "server_label": "x"}]}, expected()),
    (
        {"tools": [TOOL, OTHER], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [NAMED]}},
        expected(ChatPrompt(HI.messages, TOOLS, "required")),
    ),
    (
        {"tools": [TOOL, OTHER], "tool_choice": {"type": "allowed_tools", "tools": [{"type": "mcp"}, NAMED]}},
        expected(ChatPrompt(HI.messages, TOOLS)),
    ),
    (
        {"tools": [GROUP, PATCH], "tool_choice": {"type": "custom", "name": "patch"}},
        expected(ChatPrompt(HI.messages, (*TOOLS, PATCH_SHOWN), "required", "patch")),
    ),
    (
        {"tools": [TOOL, GROUP]},
        expected(ChatPrompt(HI.messages, (*TOOLS, Tool("group__weather", "Of a place", '{"type":"object"}')))),
    ),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 2}, expected(logprobs=2)),
    ({"include": ["message.output_text.logprobs", "reasoning.encrypted_content"]}, expected(logprobs=0)),
    (
        {
            "user": "someone",
            "metadata": {"a": "b"},
            "store": True,
            "background": False,
            "truncation": "disabled",
            "reasoning": {"effort": "low"},
            "service_tier": "auto",
            "max_tool_calls": 3,
            "previous_response_id": None,
            "no_such_field": 1,
        },
        expected(),
    ),
]

INPUTS: list[tuple[list[dict[str, Any]], tuple[Message, ...]]] = [
    ([{"role": "user", "content": "hi"}], HI.messages),
    (
        [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, SHOWN]},
            CALL,
            {**RESULT, "output": [SHOWN, {"type": "input_text", "text": "b"}]},
        ],
        (
            Message("user", "a", images=(ImagePart(png(), 1),)),
            Message("assistant", "", (ToolCall("call_1", "weather", "{}"),)),
            Message("tool", "b", tool_call_id="call_1", images=(ImagePart(png()),)),
        ),
    ),
    ([{"type": "message", "role": "developer", "content": "be brief"}], (Message("system", "be brief"),)),
    (
        [
            {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {
                "type": "message",
                "id": "msg_1",
                "status": "completed",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "c", "annotations": [], "logprobs": []}],
            },
        ],
        (Message("user", "ab"), Message("assistant", "c")),
    ),
    (
        [{"role": "user", "content": "hi"}, {"type": "reasoning", "id": "rs_1", "summary": []}, CALL, RESULT],
        (
            *HI.messages,
            Message("assistant", "", (ToolCall("call_1", "weather", "{}"),)),
            Message("tool", "sunny", tool_call_id="call_1"),
        ),
    ),
    (
        [CALL, {"role": "assistant", "content": "So"}, {**CALL, "call_id": "call_2"}, RESULT],
        (
            Message("assistant", "So", (ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "weather", "{}"))),
            Message("tool", "sunny", tool_call_id="call_1"),
        ),
    ),
    (
        [
            {"type": "compaction", "encrypted_content": "x"},
            {"type": "custom_tool_call", "call_id": "call_3", "name": "patch", "input": 'a "b"\n'},
            {"type": "custom_tool_call_output", "call_id": "call_3", "output": "done"},
        ],
        (
            Message("assistant", "", (ToolCall("call_3", "patch", '{"input":"a \\"b\\"\\n"}'),)),
            Message("tool", "done", tool_call_id="call_3"),
        ),
    ),
    (
        [
            {"role": "assistant", "content": "So"},
            {**CALL, "id": "fc_1", "status": "completed"},
            {**CALL, "call_id": "call_2"},
            {**RESULT, "output": [{"type": "input_text", "text": "sunny"}]},
        ],
        (
            Message("assistant", "So", (ToolCall("call_1", "weather", "{}"), ToolCall("call_2", "weather", "{}"))),
            Message("tool", "sunny", tool_call_id="call_1"),
        ),
    ),
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    # What would need a store.
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"),
    # Tools that are nothing here.
    ({"tools": [{"type": "teleport"}]}, "tools[0].type"),
    ({"tools": [{**GROUP, "tools": [GROUP]}]}, "tools[0].tools[0].type"),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [{**NAMED, "name": "g"}]}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "mode": "none", "tools": []}}, "tool_choice"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
    ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    # Types and bounds.
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": []}, "input"),
    ({"input": ["hi"]}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p"),
    ({"top_logprobs": 21}, "logprobs"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex"),
    # Items.
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
    ({"input": [{"id": "msg_1_0"}]}, "input[0].id"),
    ({"input": [{"type": "teleport", "id": "msg_1"}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]}]},
        "input[0].content[0].image_url",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}]}]},
        "input[0].content[0].image_url",
    ),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content"),
    ({"input": [{**CALL, "call_id": None}]}, "input[0].call_id"),
    ({"input": [{**CALL, "name": None}]}, "input[0].name"),
    ({"input": [{**RESULT, "call_id": None}]}, "input[0].call_id"),
    ({"input": [{**RESULT, "output": None}]}, "input[0].output"),
]


@pytest.mark.parametrize(("fields", "want"), ACCEPTED, ids=lambda value: str(value)[:60])
def test_fields(fields: dict[str, Any], want: GenerateRequest) -> None:
    assert request(**fields) == want


@pytest.mark.parametrize(("items", "want"), INPUTS, ids=lambda value: str(value)[:60])
def test_items(items: list[dict[str, Any]], want: tuple[Message, ...]) -> None:
    assert request(input=items) == expected(ChatPrompt(want))


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:60])
def test_refusals_name_the_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        request(**fields)
    assert refused.value.param == param
    assert refused.value.message.startswith(param)


def test_a_name_that_no_model_can_have_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        request(model="two words")


# ---- what comes back

HEAD = ObjectHead("0123", 1_700_000_000, body_of(tools=[TOOL], instructions="be brief"))
LOGPROB = TokenLogprob(5, b"Hi", -0.5)
CALLS = (ToolCallDelta(0, "call_1", "weather"), ToolCallDelta(0, arguments='{"a"'))
MORE = (ToolCallDelta(0, arguments=": 1}"), ToolCallDelta(1, "call_2", "weather", "{}"))

STREAMS: list[tuple[str, list[AnswerEvent], list[str], str]] = [
    (
        "a text",
        [
            Accepted(7, DIGEST),
            TextDelta("Hi", (5,), logprobs=(LOGPROB,)),
            TextDelta(" you"),
            Finished("stop", Usage(7, 2)),
        ],
        ["+msg_0123_0", "part", "Hi", " you", "text Hi you", "part Hi you", "-msg_0123_0 completed"],
        "completed",
    ),
    (
        "a text that was cut",
        [Accepted(7), TextDelta("Hi"), Finished("length", Usage(7, 1))],
        ["+msg_0123_0", "part", "Hi", "text Hi", "part Hi", "-msg_0123_0 incomplete"],
        "incomplete",
    ),
    (
        "a text that a filter cut",
        [Accepted(7), TextDelta("Hi"), Finished("content_filter", Usage(7, 1))],
        ["+msg_0123_0", "part", "Hi", "text Hi", "part Hi", "-msg_0123_0 incomplete"],
        "incomplete",
    ),
    (
        "nothing",
        [Accepted(7), TextDelta("", (1,)), Finished("stop", Usage(7, 0))],
        ["+msg_0123_0", "part", "text ", "part ", "-msg_0123_0 completed"],
        "completed",
    ),
    (
        "a text and calls",
        [
            Accepted(7),
            TextDelta("So "),
            TextDelta(tool_calls=CALLS),
            TextDelta(tool_calls=MORE),
            Finished("tool_calls", Usage(7, 9)),
        ],
        [
            *("+msg_0123_0", "part", "So ", "text So ", "part So ", "-msg_0123_0 completed"),
            *("+fc_0123_1", '{"a"', ": 1}", 'arguments {"a": 1}', "-fc_0123_1 completed"),
            *("+fc_0123_2", "{}", "arguments {}", "-fc_0123_2 completed"),
        ],
        "completed",
    ),
    (
        "a call that was cut",
        [Accepted(7), TextDelta(tool_calls=CALLS), Finished("length", Usage(7, 9))],
        ["+fc_0123_0", '{"a"', 'arguments {"a"', "-fc_0123_0 incomplete"],
        "incomplete",
    ),
]
CASES = pytest.mark.parametrize(
    ("events", "steps", "status"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS]
)


def events_in(rendered: bytes) -> list[dict[str, Any]]:
    """The typed events, checked for what all of them have."""
    found = []
    for number, block in enumerate(rendered.decode().removesuffix("\n\n").split("\n\n")):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        found.append(event)
    return found


def step(event: dict[str, Any]) -> str:
    """An event in the middle of a stream, in a few characters."""
    match event["type"].removeprefix("response."):
        case "output_item.added":
            assert event["item"]["status"] == "in_progress"
            return f"+{event['item']['id']}"
        case "output_item.done":
            return f"-{event['item']['id']} {event['item']['status']}"
        case "content_part.added":
            return "part"
        case "content_part.done":
            return f"part {event['part']['text']}"
        case "output_text.done":
            return f"text {event['text']}"
        case "function_call_arguments.done":
            assert event["name"] == "weather"
            return f"arguments {event['arguments']}"
        case "custom_tool_call_input.done":
            return f"input {event['input']}"
    return str(event["delta"])


@CASES
def test_typed_events(events: Sequence[AnswerEvent], steps: list[str], status: str) -> None:
    created, in_progress, *middle, last = events_in(ResponseStream(HEAD).render(events))
    assert (created["type"], in_progress["type"]) == ("response.created", "response.in_progress")
    assert (created["response"]["status"], created["response"]["output"]) == ("in_progress", [])
    assert [step(event) for event in middle] == steps
    assert (last["type"], last["response"]["status"]) == (f"response.{status}", status)
    done = [event["item"] for event in middle if event["type"] == "response.output_item.done"]
    assert last["response"]["output"] == done
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    why = reasons.get(cast(Finished, events[-1]).reason)
    assert last["response"]["incomplete_details"] == (why and {"reason": why})
    assert [e["output_index"] for e in middle if e["type"] == "response.output_item.done"] == list(range(len(done)))


@CASES
def test_a_whole_response_is_what_its_stream_ends_with(
    events: Sequence[AnswerEvent], steps: list[str], status: str
) -> None:
    collecting = Collecting(0.0)
    (whole,) = filter(None, [collecting.take(event, 1.0) for event in events])
    last = events_in(ResponseStream(HEAD).render(events))[-1]
    assert json.loads(render_response(HEAD, whole)) == last["response"]


@CASES
def test_events_one_at_a_time_are_the_same_bytes(events: Sequence[AnswerEvent], steps: list[str], status: str) -> None:
    stream = ResponseStream(HEAD)
    assert b"".join(stream.render([event]) for event in events) == ResponseStream(HEAD).render(events)


def of_tools(*tools: dict[str, Any]) -> ObjectHead:
    body = body_of(tools=list(tools))
    return ObjectHead("0123", 1_700_000_000, body, offered_tools(body.tools or ()))


def called(name: str, arguments: str) -> list[AnswerEvent]:
    pieces = (ToolCallDelta(0, "call_1", name), ToolCallDelta(0, arguments=arguments))
    return [Accepted(7), TextDelta(tool_calls=pieces), Finished("tool_calls", Usage(7, 9))]


NAMED_CALL = {"id": "fc_0123_0", "status": "completed", "call_id": "call_1"}

KINDS: list[tuple[str, ObjectHead, list[AnswerEvent], dict[str, Any], list[str]]] = [
    (
        "a function of a group",
        of_tools(GROUP),
        called("weather", "{}"),
        {**NAMED_CALL, "type": "function_call", "name": "weather", "namespace": "group", "arguments": "{}"},
        ["+fc_0123_0", "{}", "arguments {}", "-fc_0123_0 completed"],
    ),
    (
        "a function of a group, whose name another one has",
        of_tools(TOOL, GROUP),
        called("group__weather", "{}"),
        {**NAMED_CALL, "type": "function_call", "name": "weather", "namespace": "group", "arguments": "{}"},
        ["+fc_0123_0", "{}", "arguments {}", "-fc_0123_0 completed"],
    ),
    (
        "a free-form tool",
        of_tools(PATCH),
        called("patch", '{"input": "a\\nb"}'),
        {**NAMED_CALL, "id": "ctc_0123_0", "type": "custom_tool_call", "name": "patch", "input": "a\nb"},
        ["+ctc_0123_0", "a\nb", "input a\nb", "-ctc_0123_0 completed"],
    ),
    (
        "a free-form tool, by a model that writes the text itself",
        of_tools(PATCH),
        called("patch", "*** Begin"),
        {**NAMED_CALL, "id": "ctc_0123_0", "type": "custom_tool_call", "name": "patch", "input": "*** Begin"},
        ["+ctc_0123_0", "*** Begin", "input *** Begin", "-ctc_0123_0 completed"],
    ),
]


@pytest.mark.parametrize(
    ("head", "events", "item", "steps"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS]
)
def test_a_call_comes_back_as_its_client_knows_the_tool(
    head: ObjectHead, events: list[AnswerEvent], item: dict[str, Any], steps: list[str]
) -> None:
    _, _, *middle, last = events_in(ResponseStream(head).render(events))
    assert [step(event) for event in middle] == steps
    assert last["response"]["output"] == [item]
    collecting = Collecting(0.0)
    (whole,) = filter(None, [collecting.take(event, 1.0) for event in events])
    assert json.loads(render_response(head, whole)) == last["response"]


def test_a_call_in_the_history_has_the_name_that_the_model_was_shown() -> None:
    items = [{**CALL, "namespace": "group"}, {**CALL, "namespace": "gone", "name": "f"}]
    prompt = request(input=items, tools=[TOOL, GROUP]).prompt
    assert isinstance(prompt, ChatPrompt)
    assert [call.name for call in prompt.messages[0].tool_calls] == ["group__weather", "f"]


def test_a_response_says_which_tools_were_left_out() -> None:
    head = of_tools(
        TOOL, {"type": "web_search"}, {"type": "web_search"}, {"type": "mcp", "server_label": "x"}, GROUP, PATCH
    )
    document = events_in(ResponseStream(head).render(STREAMS[0][1]))[-1]["response"]
    assert document["metadata"] == {NOTE: "left out, as no tools run here: web_search, mcp"}
    assert [tool["type"] for tool in document["tools"]] == ["function", "namespace", "custom"]


def test_a_response_says_what_was_asked_for() -> None:
    document = events_in(ResponseStream(HEAD).render(STREAMS[0][1]))[-1]["response"]
    assert {name: document[name] for name in ("id", "object", "created_at", "model", "store", "instructions")} == {
        "id": "resp_0123",
        "object": "response",
        "created_at": 1_700_000_000,
        "model": "tiny",
        "store": False,
        "instructions": "be brief",
    }
    assert document["tools"] == [TOOL]
    assert document["system_fingerprint"] == DIGEST
    assert document["output"][0]["content"][0]["logprobs"][0]["token"] == "Hi"
    assert document["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }


@pytest.mark.parametrize(
    ("before", "output"),
    [
        ([], []),
        ([Accepted(7)], []),
        ([Accepted(7), TextDelta("Hi")], [("message", "incomplete")]),
        (
            [Accepted(7), TextDelta("Hi"), TextDelta(tool_calls=CALLS)],
            [("message", "completed"), ("function_call", "incomplete")],
        ),
    ],
    ids=["before it began", "before it said anything", "in a message", "in a call"],
)
def test_a_response_that_fails(before: list[AnswerEvent], output: list[tuple[str, str]]) -> None:
    stream = ResponseStream(HEAD)
    rendered = stream.render(before) + stream.render_failure(failure("peer_lost", "the worker went away"))
    events = events_in(rendered)
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] == "response.failed"
    response = events[-1]["response"]
    assert response["status"] == "failed"
    assert response["error"] == {"code": "server_error", "message": "the worker went away (peer_lost)"}
    assert [(item["type"], item["status"]) for item in response["output"]] == output


def test_a_keep_alive_is_a_comment() -> None:
    assert ResponseStream(HEAD).keep_alive(Waiting(3)) == b": waiting for a worker: position 3\n\n"
