"""An answer that a dialect cannot say ends its stream with an error, and not in the middle, wherever that happens."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.app import create_app
from p2pnet.messages import Accepted, Finished, TextDelta, ToolCallDelta, Usage
from tests.gateway.fake_generate import FakeGenerate, Step, service

CHAT = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "tiny", "stream": True, "prompt": "hi"}
CUSTOM = {"type": "custom", "name": "write"}
CALLS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXT,
    "/v1/responses": {"model": "tiny", "stream": True, "input": "hi", "tools": [CUSTOM]},
    "/v1/messages": {**CHAT, "max_tokens": 5},
    "/api/chat": CHAT,
    "/api/generate": TEXT,
    "/v1/engines/codegen/completions": TEXT,
}

FAILED = "The gateway failed unexpectedly."

BAD = TextDelta("\ud800")
"""Half a character, which no UTF-8 says. No worker can send it: the wire says UTF-8, too."""

BAD_CALL = TextDelta(tool_calls=(ToolCallDelta(0, "c", "write", '{"input":"\ud800"}'),))


async def streamed(path: str, first: list[Step], then: list[Step] | None = None) -> str:
    """What comes of these events: those of `first` at once, and those of `then` once they have been sent."""
    gate = asyncio.Event()
    generate = FakeGenerate(*first, *([] if then is None else [gate, *then]))
    transport = httpx.ASGITransport(create_app(service(generate)))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        asking = asyncio.create_task(client.post(path, json=CALLS[path]))
        if then is not None:
            await generate.is_waiting.wait()
            await asyncio.sleep(0)
            gate.set()
        response = await asking
    assert response.status_code == 200, "it was sent already"
    return response.text


@pytest.mark.parametrize("path", CALLS)
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([Accepted(7), BAD, Finished("stop", Usage(7, 1))], None),
        ([Accepted(7), TextDelta("Hi"), BAD], None),
        ([Accepted(7), TextDelta("Hi")], [BAD, Finished("stop", Usage(7, 2))]),
    ],
    ids=["at once", "after a text", "in a later batch"],
)
async def test_the_stream_ends_with_an_error(path: str, first: list[Step], then: list[Step] | None) -> None:
    body = await streamed(path, first, then)
    assert FAILED in body.rstrip("\n").splitlines()[-1]
    assert "[DONE]" not in body and "message_stop" not in body and '"done":true' not in body


@pytest.mark.parametrize("bad", [[BAD], [TextDelta("Hi"), BAD], [BAD_CALL, Finished("tool_calls", Usage(7, 1))]])
async def test_events_of_a_response_are_numbered_to_its_end(bad: list[Step]) -> None:
    body = await streamed("/v1/responses", [Accepted(7), *bad])
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: ")]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.failed")
    assert FAILED in events[-1]["response"]["error"]["message"]
