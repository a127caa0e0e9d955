"""What a model thinks, as each dialect says it, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from tests.gateway.fake_generate import FakeGenerate, answer, service

SAID = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
MESSAGE = {**SAID, "max_tokens": 9}
SHOWN = {**MESSAGE, "thinking": {"type": "enabled", "budget_tokens": 1024}}
RESPONSE = {"model": "tiny", "input": "hi"}
PROMPT = {"model": "tiny", "prompt": "hi"}
IN_TEXT = "<think>\nHm. So.\n</think>\n\nYes."

Found = tuple[str, str]
"""What it thinks, and what it says."""


async def ask(path: str, body: dict[str, Any], is_stream: bool) -> list[Any]:
    """The documents of the answer: one, or those of a stream."""
    generate = FakeGenerate(*answer("<thi", "nk>\nHm.", " So.\n</thin", "k>\n\nYe", "s."))
    transport = httpx.ASGITransport(create_app(service(generate)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        response = await http.post(path, json={**body, "stream": is_stream})
    assert response.status_code == 200
    lines = [line.removeprefix("data: ") for line in response.text.split("\n")]
    return [json.loads(line) for line in lines if line.startswith("{")]


def of_chat(documents: list[Any]) -> Found:
    choices = [document["choices"][0] for document in documents]
    says = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return "".join(each.get("reasoning_content") or "" for each in says), "".join(
        each.get("content") or "" for each in says
    )


def of_completion(documents: list[Any]) -> Found:
    return "", "".join(document["choices"][0]["text"] for document in documents)


def of_response(documents: list[Any]) -> Found:
    last = documents[-1].get("response", documents[-1])
    texts = {item["type"]: "".join(part["text"] for part in item["content"]) for item in last["output"]}
    assert list(texts) == ["reasoning", "message"]
    if len(documents) > 1:
        deltas = [event for event in documents if event["type"] == "response.reasoning_text.delta"]
        assert "".join(event["delta"] for event in deltas) == texts["reasoning"]
    return texts["reasoning"], texts["message"]


def of_message(documents: list[Any]) -> Found:
    if len(documents) == 1:
        blocks = documents[0]["content"]
        return "".join(block.get("thinking", "") for block in blocks), "".join(b.get("text", "") for b in blocks)
    deltas = [event["delta"] for event in documents if event["type"] == "content_block_delta"]
    begun = [event["content_block"]["type"] for event in documents if event["type"] == "content_block_start"]
    assert begun in (["thinking", "text"], ["text"])
    return "".join(d.get("thinking", "") for d in deltas), "".join(d.get("text", "") for d in deltas)


def of_ollama(documents: list[Any]) -> Found:
    says = [document.get("message", document) for document in documents]
    texts = [each.get("content", each.get("response", "")) for each in says]
    return "".join(each.get("thinking", "") for each in says), "".join(texts)


THOUGHT: Found = ("Hm. So.", "Yes.")

DIALECTS: list[tuple[str, str, dict[str, Any], Any, Found]] = [
    ("chat", "/v1/chat/completions", SAID, of_chat, THOUGHT),
    ("a text is as the model writes it", "/v1/completions", PROMPT, of_completion, ("", IN_TEXT)),
    ("responses", "/v1/responses", RESPONSE, of_response, THOUGHT),
    ("messages", "/v1/messages", SHOWN, of_message, THOUGHT),
    ("messages of who did not ask for thoughts", "/v1/messages", MESSAGE, of_message, ("", "Yes.")),
    ("Ollama's chat", "/api/chat", {**SAID, "think": True}, of_ollama, THOUGHT),
    ("Ollama's generate", "/api/generate", PROMPT, of_ollama, THOUGHT),
    ("Ollama's raw prompt", "/api/generate", {**PROMPT, "raw": True}, of_ollama, ("", IN_TEXT)),
]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body", "found_in", "expected"), [case[1:] for case in DIALECTS], ids=[case[0] for case in DIALECTS]
)
async def test_thoughts_have_their_place_in_each_dialect(
    path: str, body: dict[str, Any], found_in: Any, expected: Found, is_stream: bool
) -> None:
    assert found_in(await ask(path, body, is_stream)) == expected
