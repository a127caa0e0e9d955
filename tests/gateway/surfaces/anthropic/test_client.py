"""Anthropic's own Python client against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from gateway.http.limits import HttpLimits
from gateway.interface import Routed
from gateway.surfaces.anthropic.routes import TOO_LONG, TOO_MUCH
from p2pnet.answer_forms import JsonSchemaFormat
from p2pnet.errors import Busy, ContextOverflow, FeatureMissing, ModelNotFound, NoWorker, PeerLost, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from tests.gateway.fake_generate import FakeGenerate, Serve, Step, answer

MESSAGES: list[MessageParam] = [{"role": "user", "content": "hi"}]
WEATHER: ToolParam = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALLED: list[Step] = [
    Accepted(7),
    TextDelta("Let me see."),
    TextDelta(tool_calls=(ToolCallDelta(0, "call_1", "weather"),)),
    TextDelta(tool_calls=(ToolCallDelta(0, arguments='{"city": "Köln"}'),)),
    Finished("tool_calls", Usage(7, 9)),
]
Connect = Callable[..., Awaitable[anthropic.AsyncAnthropic]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """`await connect(generate)` gives the official client of a server that plays `generate`."""
    clients: list[anthropic.AsyncAnthropic] = []

    async def start(
        generate: FakeGenerate, max_retries: int = 0, limits: HttpLimits | None = None
    ) -> anthropic.AsyncAnthropic:
        server = await serve(generate, limits)
        client = anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=max_retries)
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


async def test_a_message(connect: Connect) -> None:
    generate = FakeGenerate(Routed("peer", 2, 30), *answer("Hel", "lo"))
    client = await connect(generate)
    reply = await client.messages.create(
        model="tiny",
        max_tokens=5,
        messages=MESSAGES,
        system="Be brief.",
        metadata={"user_id": "u"},
        extra_body={"temperature": 0},
    )
    assert (reply.id, reply.model, reply.role, reply.type) == ("msg_0123", "tiny", "assistant", "message")
    assert [block.text for block in reply.content if block.type == "text"] == ["Hello"]
    assert (reply.stop_reason, reply.stop_sequence) == ("end_turn", None)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (7, 2)
    assert reply._request_id == generate.requests[0].request_id
    assert generate.requests[0].prompt == ChatPrompt((Message("system", "Be brief."), Message("user", "hi")))
    assert (generate.requests[0].max_tokens, generate.requests[0].sampling.temperature) == (5, 0)


async def test_who_answered_is_in_the_headers(connect: Connect) -> None:
    client = await connect(FakeGenerate(Routed("peer", 2, 30), *answer("Hi")))
    reply = await client.messages.with_raw_response.create(model="tiny", max_tokens=5, messages=MESSAGES)
    assert (reply.headers["x-p2pnet-worker"], reply.headers["x-p2pnet-attempts"]) == ("peer", "2")


async def test_a_stream_of_events(connect: Connect) -> None:
    client = await connect(FakeGenerate(*answer("Hel", "lo", reason="length")))
    stream = await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, stream=True)
    assert [event.type async for event in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_the_clients_own_accumulator_reads_the_stream(connect: Connect) -> None:
    client = await connect(FakeGenerate(*answer("Hel", "lo", reason="length")))
    async with client.messages.stream(model="tiny", max_tokens=5, messages=MESSAGES) as stream:
        texts = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert texts == ["Hel", "lo"]
    assert await stream.get_final_text() == "Hello"
    assert final.stop_reason == "max_tokens"
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 2)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_a_loop_of_tools(connect: Connect, is_stream: bool) -> None:
    """Given a model that asks for the weather, when it is told, then it says so."""

    def script(request: GenerateRequest) -> list[Step]:
        assert isinstance(request.prompt, ChatPrompt)
        return CALLED if len(request.prompt.messages) == 1 else answer("It rains.")

    generate = FakeGenerate()
    generate.script = script
    client = await connect(generate)
    messages: list[MessageParam] = [{"role": "user", "content": "Weather in Köln?"}]

    async def ask() -> anthropic.types.Message:
        fields: Any = {"model": "tiny", "max_tokens": 50, "messages": messages, "tools": [WEATHER]}
        if not is_stream:
            reply: anthropic.types.Message = await client.messages.create(**fields)
            return reply
        async with client.messages.stream(**fields) as stream:
            return await stream.get_final_message()

    first = await ask()
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert (first.stop_reason, call.name, call.input) == ("tool_use", "weather", {"city": "Köln"})
    messages.append({"role": "assistant", "content": first.content})
    messages.append(
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]},
    )
    second = await ask()
    assert [block.text for block in second.content if block.type == "text"] == ["It rains."]
    prompt = generate.requests[1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert prompt.messages[1:] == (
        Message("assistant", "Let me see.", (ToolCall(call.id, "weather", '{"city":"Köln"}'),)),
        Message("tool", "rain", tool_call_id=call.id),
    )
    assert prompt.tools[0].name == "weather"


async def test_a_structured_answer(connect: Connect) -> None:
    class Place(BaseModel):
        city: str

    generate = FakeGenerate(*answer('{"city": ', '"Köln"}'))
    client = await connect(generate)
    reply = await client.messages.parse(model="tiny", max_tokens=20, messages=MESSAGES, output_format=Place)
    assert reply.parsed_output == Place(city="Köln")
    asked = generate.requests[0].response_format
    assert isinstance(asked, JsonSchemaFormat)
    assert json.loads(asked.schema)["required"] == ["city"]


async def test_a_stop_sequence_is_named(connect: Connect) -> None:
    client = await connect(FakeGenerate(Accepted(7), TextDelta("a"), Finished("stop", Usage(7, 2), stop="END")))
    reply = await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, stop_sequences=["END", "x"])
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "END")


async def test_a_prefilled_answer_is_gone_on_with(connect: Connect) -> None:
    generate = FakeGenerate(*answer("B)"))
    client = await connect(generate)
    begun: MessageParam = {"role": "assistant", "content": "The answer is ("}
    reply = await client.messages.create(model="tiny", max_tokens=5, messages=[*MESSAGES, begun])
    assert [block.text for block in reply.content if block.type == "text"] == ["B)"]
    assert generate.requests[0].resume_text == "The answer is ("
    assert generate.requests[0].prompt == ChatPrompt((Message("user", "hi"),))


async def test_tokens_are_counted_by_a_worker(connect: Connect) -> None:
    generate = FakeGenerate(*answer("x", reason="length"))
    client = await connect(generate)
    count = await client.messages.count_tokens(model="tiny", messages=MESSAGES, tools=[WEATHER])
    assert count.input_tokens == 7
    assert generate.requests[0].max_tokens == 1


async def test_models(connect: Connect) -> None:
    client = await connect(FakeGenerate())
    assert [model.id async for model in client.models.list()] == ["tiny", "org/large"]
    assert [model.id async for model in client.models.list(limit=1)] == ["tiny", "org/large"]
    model = await client.models.retrieve("tiny")
    assert (model.display_name, model.max_input_tokens, model.created_at.year) == ("tiny", 512, 2023)
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.models.retrieve("nothing")
    assert missing.value.type == "not_found_error"


async def test_the_list_of_models_stays_openais_for_everybody_else(serve: Serve) -> None:
    server = await serve(FakeGenerate())
    async with httpx.AsyncClient(base_url=server.url) as http:
        plain = (await http.get("/v1/models")).json()
        theirs = (await http.get("/v1/models?limit=x", headers={"anthropic-version": "2023-06-01"})).json()
    assert plain["object"] == "list"
    assert [model["type"] for model in theirs["data"]] == ["model", "model"]


ERRORS = [
    (ModelNotFound("no such model"), anthropic.NotFoundError, "not_found_error"),
    (FeatureMissing("no tools", "tools"), anthropic.BadRequestError, "invalid_request_error"),
    (Busy("full", retry_after_s=3), anthropic.RateLimitError, "rate_limit_error"),
    (NoWorker("nobody"), anthropic.InternalServerError, "overloaded_error"),
    (WorkerFailed("broken"), anthropic.InternalServerError, "api_error"),
    (KeyError("secret"), anthropic.InternalServerError, "api_error"),
]


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("error", "kind", "name"), ERRORS, ids=[case[2] + type(case[0]).__name__ for case in ERRORS])
async def test_errors_have_the_clients_own_types(
    connect: Connect, error: Exception, kind: type[anthropic.APIStatusError], name: str, is_stream: bool
) -> None:
    client = await connect(FakeGenerate(error))
    with pytest.raises(kind) as raised:
        await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, stream=is_stream)
    assert raised.value.type == name
    assert raised.value.request_id
    assert "secret" not in str(raised.value)
    if isinstance(error, Busy):
        assert raised.value.response.headers["retry-after"] == "3"


async def test_a_field_that_cannot_be_honoured_is_named(connect: Connect) -> None:
    client = await connect(FakeGenerate())
    image: Any = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\].source: images are not fetched"):
        await client.messages.create(model="tiny", max_tokens=5, messages=[{"role": "user", "content": [image]}])


async def test_the_edges_own_errors_have_the_same_shape(serve: Serve) -> None:
    server = await serve(FakeGenerate(), HttpLimits(max_body_bytes=10))
    async with httpx.AsyncClient(base_url=server.url) as http:
        replies = [
            await http.get("/v1/messages"),
            await http.get("/v1/messages/batches"),
            await http.post("/v1/messages", content=b"x" * 11),
            await http.post("/v1/messages", content=b"{"),
        ]
    assert [(reply.status_code, reply.json()["error"]["type"]) for reply in replies] == [
        (405, "invalid_request_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (400, "invalid_request_error"),
    ]
    assert all(reply.headers["request-id"] == reply.headers["x-request-id"] for reply in replies)


async def test_the_client_waits_and_repeats_a_busy_request(connect: Connect) -> None:
    generate = FakeGenerate()
    generate.script = lambda _: [Busy("full")] if len(generate.requests) == 1 else answer("yes")
    client = await connect(generate, max_retries=1)
    reply = await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES)
    assert reply.stop_reason == "end_turn"
    assert len(generate.requests) == 2


async def test_a_stream_that_breaks_raises(connect: Connect) -> None:
    client = await connect(FakeGenerate(Accepted(7), TextDelta("Hel"), PeerLost("the worker went away")))
    stream = await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="the worker went away") as broken:
        [event async for event in stream]
    assert broken.value.type == "overloaded_error"


async def test_pings_while_it_waits(connect: Connect) -> None:
    gate = asyncio.Event()
    client = await connect(FakeGenerate(gate, *answer("late")), limits=HttpLimits(keep_alive_s=0.001))
    async with client.messages.with_streaming_response.create(
        model="tiny", max_tokens=5, messages=MESSAGES, stream=True
    ) as reply:
        lines = reply.iter_lines()
        assert await anext(lines) == "event: ping"
        gate.set()
        rest = [line async for line in lines]
    assert 'data: {"type":"message_stop"}' in rest


async def test_a_client_that_closes_its_stream_closes_the_generation(connect: Connect) -> None:
    generate = FakeGenerate(Accepted(7), TextDelta("Hel"), asyncio.Event())
    client = await connect(generate)
    stream = await client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, stream=True)
    await generate.is_waiting.wait()
    await stream.close()
    await generate.has_closed.wait()
    assert generate.closed == 1


async def test_the_blocking_client(serve: Serve) -> None:
    server = await serve(FakeGenerate(*CALLED))

    def talk() -> tuple[list[str], list[str], int, list[str]]:
        with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
            whole = client.messages.create(model="tiny", max_tokens=5, messages=MESSAGES, tools=[WEATHER])
            with client.messages.stream(model="tiny", max_tokens=5, messages=MESSAGES, tools=[WEATHER]) as stream:
                streamed = stream.get_final_message()
            count = client.messages.count_tokens(model="tiny", messages=MESSAGES).input_tokens
            kinds = [block.type for block in whole.content]
            return (
                kinds,
                [block.type for block in streamed.content],
                count,
                [model.id for model in client.models.list()],
            )

    kinds = ["text", "tool_use"]
    assert await asyncio.to_thread(talk) == (kinds, kinds, 7, ["tiny", "org/large"])


@pytest.mark.parametrize(("param", "words"), [("prompt", TOO_LONG), ("max_tokens", TOO_MUCH), (None, TOO_LONG)])
async def test_what_does_not_fit_is_said_in_the_words_that_clients_look_for(
    connect: Connect, param: str | None, words: str
) -> None:
    client = await connect(FakeGenerate(ContextOverflow("9 of 8", param)))
    with pytest.raises(anthropic.BadRequestError, match=re.escape(f"'message': '{words} 9 of 8'")):
        await client.messages.create(model="tiny", messages=MESSAGES, max_tokens=5)
