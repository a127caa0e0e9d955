"""What nobody here runs is left out of a request, and every dialect says so in the same two places."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from gateway.http.left_out import MAX_NAMED, left_out_field, left_out_headers
from p2pnet.messages import ChatPrompt
from tests.gateway.fake_generate import FakeGenerate, answer, service

SAID = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}
LOOK = {"type": "function", "function": {"name": "look"}}

REQUESTS: list[tuple[str, str, dict[str, Any], list[str]]] = [
    ("an option of chat", "/v1/chat/completions", {**SAID, "web_search_options": {}}, ["web_search_options"]),
    (
        "tools of chat",
        "/v1/chat/completions",
        {**SAID, "tools": [LOOK, {"type": "web_search"}, {"type": "mcp"}], "stream_options": None},
        ["web_search", "mcp"],
    ),
    ("messages", "/v1/messages", {**SAID, "max_tokens": 9, "tools": [SEARCH]}, ["web_search_20250305"]),
    (
        "a server of tools",
        "/v1/messages",
        {**SAID, "max_tokens": 9, "mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]},
        ["mcp_servers"],
    ),
    ("responses", "/v1/responses", {"model": "tiny", "input": "hi", "tools": [{"type": "mcp"}]}, ["mcp"]),
]


async def ask(path: str, body: dict[str, Any]) -> tuple[httpx.Response, FakeGenerate]:
    generate = FakeGenerate(*answer("hi"))
    transport = httpx.ASGITransport(create_app(service(generate)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        return await http.post(path, json=body), generate


def documents(response: httpx.Response) -> list[Any]:
    """One, or those of a stream."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def with_usage(document: Any) -> Any:
    """The part of a document that has its usage."""
    return document.get("response", document)


@pytest.mark.parametrize(("path", "body", "names"), [case[1:] for case in REQUESTS], ids=[case[0] for case in REQUESTS])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
async def test_it_is_said_in_a_header_and_beside_the_usage(
    path: str, body: dict[str, Any], names: list[str], is_stream: bool
) -> None:
    extra = {"stream_options": {"include_usage": True}} if is_stream and path.endswith("completions") else {}
    response, generate = await ask(path, {**body, "stream": is_stream, **extra})
    assert response.status_code == 200
    assert response.headers["x-p2pnet-left-out"] == ", ".join(names)
    counted = [with_usage(each) for each in documents(response) if with_usage(each).get("usage")]
    assert counted and all(each["p2pnet"] == {"left_out": names} for each in counted[-1:])
    (asked,) = generate.requests
    assert isinstance(asked.prompt, ChatPrompt) and len(asked.prompt.tools) == (LOOK in body.get("tools", ()))


async def test_a_stream_without_usage_says_it_at_the_end() -> None:
    response, _ = await ask("/v1/chat/completions", {**SAID, "web_search_options": {}, "stream": True})
    *others, last = documents(response)
    assert last["p2pnet"] == {"left_out": ["web_search_options"]} and last["choices"][0]["finish_reason"] == "stop"
    assert not any("p2pnet" in each for each in others)


async def test_counting_says_it_too() -> None:
    response, _ = await ask("/v1/messages/count_tokens", {**SAID, "tools": [SEARCH]})
    assert response.headers["x-p2pnet-left-out"] == "web_search_20250305"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_where_nothing_was_left_out_nothing_is_said(path: str) -> None:
    response, _ = await ask(path, {**SAID, "max_tokens": 9})
    assert "x-p2pnet-left-out" not in response.headers and "p2pnet" not in response.json()


def test_each_is_named_once_and_not_hundreds() -> None:
    assert left_out_headers(["b", "a", "b"]) == {"x-p2pnet-left-out": "b, a"}
    assert left_out_headers([]) == left_out_field([]) == {}
    assert len(left_out_field([str(number) for number in range(300)])["p2pnet"]["left_out"]) == MAX_NAMED
