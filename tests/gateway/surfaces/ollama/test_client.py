"""Ollama's own Python client, unmodified, against a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import httpx
import ollama
import pytest
from pydantic import BaseModel

from gateway.http.limits import HttpLimits
from gateway.interface import Routed, Waiting
from gateway.surfaces.ollama.routes import API_VERSION, REFUSED, TOO_LONG
from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    NoWorker,
    P2PNetError,
    PeerLost,
    WorkerFailed,
)
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    Message,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.gateway.fake_generate import FakeGenerate, Serve, answer

MESSAGES = [{"role": "user", "content": "hi"}]
Connect = Callable[..., Awaitable[ollama.AsyncClient]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """`await connect(generate, limits)` gives the official client of a server that plays `generate`."""
    async with AsyncExitStack() as opened:

        async def start(generate: FakeGenerate, limits: HttpLimits | None = None) -> ollama.AsyncClient:
            server = await serve(generate, limits)
            return await opened.enter_async_context(ollama.AsyncClient(server.url))

        yield start


async def test_list_show_and_ps(connect: Connect) -> None:
    client = await connect(FakeGenerate())
    listed = (await client.list()).models
    assert [model.model for model in listed] == ["tiny:latest", "org/large:latest"]
    assert listed[0].digest == "ab" * 32
    assert listed[0].modified_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert all(model.size and model.details and model.details.families for model in listed)
    assert [model.model for model in (await client.ps()).models] == ["tiny:latest", "org/large:latest"]
    for name in ("tiny", "tiny:latest"):
        shown = await client.show(name)
        assert shown.modelinfo is not None
        assert shown.modelinfo["general.architecture"] == "tiny"
        assert shown.modelinfo["tiny.context_length"] == 512
        assert shown.capabilities == ["completion"]
    with pytest.raises(ollama.ResponseError) as missing:
        await client.show("nothing")
    assert (missing.value.error, missing.value.status_code) == ("model 'nothing' not found", 404)


async def test_chat(connect: Connect) -> None:
    generate = FakeGenerate(*answer("Hel", "lo"))
    client = await connect(generate)
    reply = await client.chat("tiny:latest", MESSAGES, options={"temperature": 0, "num_predict": 5}, keep_alive="5m")
    assert (reply.model, reply.message.role, reply.message.content) == ("tiny:latest", "assistant", "Hello")
    assert (reply.done, reply.done_reason, reply.prompt_eval_count, reply.eval_count) == (True, "stop", 7, 2)
    durations = (reply.total_duration, reply.load_duration, reply.prompt_eval_duration, reply.eval_duration)
    assert all(duration and duration > 0 for duration in durations)
    assert reply.created_at == "2023-11-14T22:15:00.500000000Z"
    request = generate.requests[0]
    assert (request.model, request.max_tokens, request.sampling.temperature) == ("tiny", 5, 0.0)
    assert request.prompt == ChatPrompt((Message("user", "hi"),))


async def test_chat_stream(connect: Connect) -> None:
    client = await connect(FakeGenerate(Routed("w", 1, 3), *answer("Hel", "lo\u2028", "\x85!", reason="length")))
    parts = [part async for part in await client.chat("tiny", MESSAGES, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Hello\u2028\x85!"
    assert [part.done for part in parts] == [False, False, False, True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("length", 3)
    assert {part.model for part in parts} == {"tiny"}


async def test_generate_and_its_context(connect: Connect) -> None:
    generate = FakeGenerate(*answer("Hel", "lo"))
    client = await connect(generate)
    first = await client.generate("tiny", "hi", system="be brief")
    assert (first.response, first.done_reason) == ("Hello", "stop")
    assert first.context
    parts = [part async for part in await client.generate("tiny", "more", context=first.context, stream=True)]
    assert "".join(part.response or "" for part in parts) == "Hello"
    assert generate.requests[1].prompt == ChatPrompt(
        (Message("system", "be brief"), Message("user", "hi"), Message("assistant", "Hello"), Message("user", "more"))
    )
    assert len(parts[-1].context or ()) > len(first.context)
    raw = await client.generate("tiny", "hi", raw=True)
    assert raw.context is None
    assert generate.requests[2].prompt == TextPrompt("hi")


async def test_load_and_unload(connect: Connect) -> None:
    generate = FakeGenerate()
    client = await connect(generate)
    assert (await client.generate("tiny")).done_reason == "load"
    assert (await client.chat("tiny")).done_reason == "load"
    assert (await client.generate("tiny", keep_alive=0)).done_reason == "unload"
    assert [part.done_reason async for part in await client.chat("tiny", keep_alive=0, stream=True)] == ["unload"]
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found"):
        await client.generate("nothing")
    assert generate.requests == []


class Weather(BaseModel):
    city: str
    days: int


def weather(city: str, days: int = 1) -> str:
    """The weather.

    Args:
      city: Where.
      days: For how long.
    """
    return f"{city} {days}"


async def test_tools_there_and_back(connect: Connect) -> None:
    calls = [
        TextDelta(tool_calls=(ToolCallDelta(0, "call_a", "weather"),)),
        TextDelta(tool_calls=(ToolCallDelta(0, arguments='{"city": "Bern"'),)),
        TextDelta(tool_calls=(ToolCallDelta(0, arguments=', "days": 2}'), ToolCallDelta(1, "call_b", "weather", "{}"))),
    ]
    generate = FakeGenerate(Accepted(7), *calls, Finished("tool_calls", Usage(7, 3)))
    client = await connect(generate)
    whole = await client.chat("tiny", MESSAGES, tools=[weather])
    parts = [part async for part in await client.chat("tiny", MESSAGES, tools=[weather], stream=True)]
    expected = [("weather", {"city": "Bern", "days": 2}), ("weather", {})]
    streamed = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in streamed] == expected
    assert whole.message.tool_calls is not None
    assert [(call.function.name, call.function.arguments) for call in whole.message.tool_calls] == expected
    assert whole.done_reason == parts[-1].done_reason == "stop"
    offered = generate.requests[0].prompt
    assert isinstance(offered, ChatPrompt)
    assert (offered.tools[0].name, offered.tools[0].description) == ("weather", "The weather.")
    assert '"city":{"type":"string","description":"Where."}' in offered.tools[0].parameters

    generate.script = lambda _: answer("sunny")
    results = [{"role": "tool", "content": text, "tool_name": "weather"} for text in ("Bern 2", "nowhere")]
    await client.chat("tiny", [*MESSAGES, whole.message, *results])
    prompt = generate.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1:] == (
        Message(
            "assistant",
            "",
            (ToolCall("call_1", "weather", '{"city":"Bern","days":2}'), ToolCall("call_2", "weather", "{}")),
        ),
        Message("tool", "Bern 2", tool_call_id="call_1", name="weather"),
        Message("tool", "nowhere", tool_call_id="call_2", name="weather"),
    )


async def test_formats(connect: Connect) -> None:
    generate = FakeGenerate(*answer('{"city": "Bern", ', '"days": 2}'))
    client = await connect(generate)
    reply = await client.chat("tiny", MESSAGES, format=Weather.model_json_schema())
    assert Weather.model_validate_json(reply.message.content or "") == Weather(city="Bern", days=2)
    await client.generate("tiny", "hi", format="json")
    schema = generate.requests[0].response_format
    assert isinstance(schema, JsonSchemaFormat)
    assert '"required":["city","days"]' in schema.schema
    assert generate.requests[1].response_format == JsonFormat()


async def test_logprobs(connect: Connect) -> None:
    delta = TextDelta("Hi", (1,), logprobs=(TokenLogprob(1, b"Hi", -0.5),))
    generate = FakeGenerate(Accepted(7), delta, Finished("stop", Usage(7, 1)))
    client = await connect(generate)
    reply = await client.chat("tiny", MESSAGES, logprobs=True, top_logprobs=2)
    parts = [part async for part in await client.generate("tiny", "hi", logprobs=True, stream=True)]
    assert [request.logprobs for request in generate.requests] == [2, 0]
    for logprobs in (reply.logprobs, parts[0].logprobs):
        assert logprobs is not None
        assert [(each.token, each.logprob) for each in logprobs] == [("Hi", -0.5)]


async def test_embeddings(connect: Connect) -> None:
    client = await connect(FakeGenerate())
    many = await client.embed("vectors", ["one", "two"])
    assert (many.embeddings, many.prompt_eval_count) == ([[0.0, 0.5], [1.0, 0.5]], 2)
    assert many.total_duration and many.load_duration
    assert (await client.embed("vectors", "one")).embeddings == [[0.0, 0.5]]
    assert (await client.embeddings("vectors", "one")).embedding == [0.0, 0.5]
    assert (await client.embed("tiny", [])).embeddings == []
    assert (await client.embeddings("tiny", "")).embedding == []
    with pytest.raises(ollama.ResponseError, match="this model does not support embeddings"):
        await client.embed("tiny", "one")


FAILURES: list[tuple[P2PNetError, int, str]] = [
    (ModelNotFound("nobody announces it"), 404, "model 'tiny' not found"),
    (FeatureMissing("no tools", "tools"), 400, "tiny does not support tools"),
    (FeatureMissing("no chat", "messages"), 400, "tiny does not support chat"),
    (FeatureMissing("not here: top_k", "top_k"), 400, "not here: top_k"),
    (InvalidRequest("bad", "stop"), 400, "bad"),
    (ContextOverflow("9 of 8"), 400, f"{TOO_LONG} 9 of 8"),
    (Busy("full"), 429, "full"),
    (NoWorker("nobody"), 503, "nobody"),
    (WorkerFailed("broken"), 502, "broken"),
]


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("error", "status", "message"), FAILURES, ids=lambda value: str(value))
async def test_errors_have_their_status(
    error: P2PNetError, status: int, message: str, is_stream: bool, connect: Connect
) -> None:
    client = await connect(FakeGenerate(error))
    with pytest.raises(ollama.ResponseError) as refused:
        if is_stream:
            [part async for part in await client.chat("tiny", MESSAGES, stream=True)]
        else:
            await client.chat("tiny", MESSAGES)
    assert (refused.value.error, refused.value.status_code) == (message, status)


async def test_what_is_refused_before_anybody_is_asked(connect: Connect) -> None:
    generate = FakeGenerate()
    client = await connect(generate)
    asked: list[tuple[Coroutine[Any, Any, Any], str]] = [
        (client.generate("tiny", "hi", images=[b"image"]), "tiny does not support vision"),
        (client.generate("tiny", "hi", suffix="x"), "tiny does not support insert"),
        (client.generate("tiny", "hi", raw=True, system="x"), "raw mode does not support template, system, or context"),
        (client.chat("tiny", MESSAGES, options={"top_k": "many"}), 'option "top_k" must be of type integer'),
        (client.pull("tiny"), "pull is not possible here"),
        (client.push("tiny"), "push is not possible here"),
        (client.create("new", from_="tiny"), "create is not possible here"),
        (client.copy("tiny", "new"), "copy is not possible here"),
        (client.delete("tiny"), "delete is not possible here"),
    ]
    for call, message in asked:
        with pytest.raises(ollama.ResponseError) as refused:
            await call
        assert refused.value.error.startswith(message)
        assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="pull is not possible here"):
        [part async for part in await client.pull("tiny", stream=True)]
    assert generate.requests == []


async def test_think_false_is_no_question(connect: Connect) -> None:
    client = await connect(FakeGenerate(*answer("Hi")))
    assert (await client.chat("tiny", MESSAGES, think=False)).message.content == "Hi"


async def test_a_stream_that_breaks_raises(connect: Connect) -> None:
    client = await connect(FakeGenerate(Accepted(7), TextDelta("Hel"), PeerLost("the worker went away")))
    parts = []
    with pytest.raises(ollama.ResponseError, match="the worker went away"):
        async for part in await client.chat("tiny", MESSAGES, stream=True):
            parts.append(part.message.content)
    assert parts == ["Hel"]


async def test_a_client_survives_the_wait_for_a_worker(connect: Connect) -> None:
    generate = FakeGenerate(Waiting(3, 2.0), Waiting(1), *answer("Hel", "lo"))
    client = await connect(generate)
    parts = [part async for part in await client.chat("tiny", MESSAGES, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == "Hello"
    assert sum(part.done or False for part in parts) == 1


async def test_a_client_that_closes_its_stream_closes_the_generation(connect: Connect) -> None:
    generate = FakeGenerate(Accepted(7), TextDelta("Hel"), asyncio.Event())
    client = await connect(generate)
    stream: Any = await client.chat("tiny", MESSAGES, stream=True)
    assert (await anext(stream)).message.content == "Hel"
    await stream.aclose()
    await generate.has_closed.wait()


async def test_the_blocking_client(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hel", "lo")))

    def talk() -> None:
        with ollama.Client(server.url) as client:
            assert [model.model for model in client.list().models] == ["tiny:latest", "org/large:latest"]
            assert client.chat("tiny", MESSAGES).message.content == "Hello"
            assert "".join(p.message.content or "" for p in client.chat("tiny", MESSAGES, stream=True)) == "Hello"
            assert client.generate("tiny", "hi").response == "Hello"
            assert "".join(p.response or "" for p in client.generate("tiny", "hi", stream=True)) == "Hello"
            assert client.embed("vectors", ["one"]).embeddings == [[0.0, 0.5]]
            assert client.embeddings("vectors", "one").embedding == [0.0, 0.5]
            assert client.show("tiny").capabilities == ["completion"]
            assert len(client.ps().models) == 2
            with pytest.raises(ollama.ResponseError) as missing:
                client.show("nothing")
            assert missing.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match="pull is not possible here"):
                client.pull("tiny")

    await asyncio.to_thread(talk)


async def test_what_the_client_does_not_call(serve: Serve) -> None:
    """The root, the version, HEAD, blobs, and the shape of an unknown path's error."""
    server = await serve(FakeGenerate(*answer("Hi")))
    async with httpx.AsyncClient(base_url=server.url) as http:
        assert (await http.get("/")).text == "Ollama is running"
        assert (await http.get("/api/version")).json() == {"version": API_VERSION}
        for path in ("/", "/api/version", "/api/tags"):
            head = await http.head(path)
            assert (head.status_code, head.content) == (200, b"")
        for method, path in REFUSED:
            refused = await http.request(method, path.replace("{digest}", "sha256:0"))
            assert refused.status_code == 400
            assert method == "HEAD" or set(refused.json()) == {"error"}
        unknown = await http.get("/api/nothing")
        assert (unknown.status_code, set(unknown.json())) == (404, {"error"})
        wrong = await http.get("/api/chat")
        assert (wrong.status_code, set(wrong.json())) == (405, {"error"})
        streamed = await http.post("/api/chat", json={"model": "tiny", "messages": MESSAGES})
        assert streamed.headers["content-type"] == "application/x-ndjson"
        assert b"\n\n" not in streamed.content
        assert streamed.content.endswith(b"}\n")
        whole = await http.post("/api/chat", json={"model": "tiny", "messages": MESSAGES, "stream": False})
        assert whole.headers["content-type"] == "application/json"


async def test_a_busy_network_says_when_to_come_back(serve: Serve) -> None:
    server = await serve(FakeGenerate(Busy("full", retry_after_s=3)))
    async with httpx.AsyncClient(base_url=server.url) as http:
        response = await http.post("/api/generate", json={"model": "tiny", "prompt": "hi"})
    assert (response.status_code, response.headers["retry-after"], response.content) == (429, "3", b'{"error":"full"}')
