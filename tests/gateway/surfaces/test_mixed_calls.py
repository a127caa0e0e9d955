"""Calls whose pieces come in turns, and text inside a call: the same calls in every dialect, streamed and whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from p2pnet.messages import Accepted, Finished, TextDelta, ToolCallDelta, Usage
from tests.gateway.fake_generate import FakeGenerate, Step, service


def pieces(*given: tuple[int, str, str] | tuple[int, str] | str) -> list[Step]:
    """Index, name and arguments begin a call, index and arguments go on with it; a text is said."""
    deltas: list[Step] = []
    for each in given:
        if isinstance(each, str):
            deltas.append(TextDelta(each))
        elif len(each) == 3:
            deltas.append(TextDelta(tool_calls=(ToolCallDelta(each[0], f"c{each[0]}", each[1], each[2]),)))
        else:
            deltas.append(TextDelta(tool_calls=(ToolCallDelta(each[0], arguments=each[1]),)))
    return [Accepted(7), *deltas, Finished("tool_calls", Usage(7, 9))]


MIXED: list[tuple[str, list[Step], list[tuple[str, Any]], str]] = [
    (
        "two calls in turns",
        pieces((0, "add", ""), (1, "mul", ""), (0, '{"a":'), (1, '{"b":'), (0, "1}"), (1, "2}")),
        [("add", {"a": 1}), ("mul", {"b": 2})],
        "",
    ),
    ("text inside a call", pieces((0, "add", ""), (0, '{"a":'), "\n", (0, "1}")), [("add", {"a": 1})], "\n"),
]


def sse(body: str) -> list[Any]:
    """The events that are JSON."""
    lines = [line.removeprefix("data: ") for line in body.split("\n") if line.startswith("data: {")]
    return list(map(json.loads, lines))


Found = tuple[list[tuple[str, Any]], str]
"""Names and arguments of the calls, and the text."""


def of_chat(body: str) -> Found:
    calls: dict[int, list[str]] = {}
    text = ""
    for chunk in sse(body):
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            for call in choice["delta"].get("tool_calls", ()):
                known = calls.setdefault(call["index"], [call["function"].get("name", ""), ""])
                known[1] += call["function"]["arguments"]
    return [(name, json.loads(arguments)) for name, arguments in calls.values()], text


def of_responses(body: str) -> Found:
    last = sse(body)[-1]
    assert last["type"] == "response.completed"
    return of_output(last["response"]["output"])


def of_output(items: Iterable[dict[str, Any]]) -> Found:
    calls, text = [], ""
    for item in items:
        if item["type"] == "function_call":
            calls.append((item["name"], json.loads(item["arguments"])))
        else:
            text += "".join(part["text"] for part in item["content"])
    return calls, text


def of_messages(body: str) -> Found:
    blocks: list[list[str]] = []
    for event in sse(body):
        assert event["type"] != "error"
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks)
            blocks.append([event["content_block"].get("name", ""), ""])
        elif event["type"] == "content_block_delta":
            assert event["index"] == len(blocks) - 1
            blocks[-1][1] += event["delta"].get("partial_json", event["delta"].get("text", ""))
    calls = [(name, json.loads(said)) for name, said in blocks if name]
    return calls, "".join(said for name, said in blocks if not name)


def of_ollama(body: str) -> Found:
    messages = [json.loads(line)["message"] for line in body.split("\n") if line]
    calls = [call["function"] for message in messages for call in message.get("tool_calls", ())]
    return [(call["name"], call["arguments"]) for call in calls], "".join(message["content"] for message in messages)


SAID = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {}}
NAMES = ("add", "mul")
FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in NAMES]
PLAIN = [{"type": "function", "name": name, "parameters": SCHEMA} for name in NAMES]
OF_ANTHROPIC = [{"name": name, "input_schema": SCHEMA} for name in NAMES]

DIALECTS: list[tuple[str, dict[str, Any], Callable[[str], Found]]] = [
    ("/v1/chat/completions", {**SAID, "tools": FUNCTIONS}, of_chat),
    ("/v1/responses", {"model": "tiny", "input": "hi", "tools": PLAIN}, of_responses),
    ("/v1/messages", {**SAID, "max_tokens": 9, "tools": OF_ANTHROPIC}, of_messages),
    ("/api/chat", {**SAID, "tools": FUNCTIONS}, of_ollama),
]


def client(*steps: Step) -> httpx.AsyncClient:
    app = create_app(service(FakeGenerate(*steps)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


@pytest.mark.parametrize(("path", "body", "found_in"), DIALECTS, ids=[path for path, *_ in DIALECTS])
@pytest.mark.parametrize(("steps", "calls", "text"), [case[1:] for case in MIXED], ids=[case[0] for case in MIXED])
async def test_mixed_calls_are_told_apart_in_every_stream(
    steps: list[Step],
    calls: list[tuple[str, Any]],
    text: str,
    path: str,
    body: dict[str, Any],
    found_in: Callable[[str], Found],
) -> None:
    async with client(*steps) as http:
        response = await http.post(path, json={**body, "stream": True})
    assert response.status_code == 200
    assert found_in(response.text) == (calls, text)


BACK = pieces((0, "add", "{}"), "so", (0, "more"))


@pytest.mark.parametrize(("path", "body"), [case[:2] for case in DIALECTS], ids=[path for path, *_ in DIALECTS])
async def test_what_cannot_be_made_sense_of_is_said_in_the_stream_though_it_comes_at_once(
    path: str, body: dict[str, Any]
) -> None:
    async with client(*BACK) as http:
        response = await http.post(path, json={**body, "stream": True})
    last = json.loads(response.text.strip().split("\n")[-1].removeprefix("data: "))
    error = last["response"]["error"] if path == "/v1/responses" else last["error"]
    assert "went back to a tool call" in str(error)
