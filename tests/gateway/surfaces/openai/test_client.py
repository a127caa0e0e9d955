"""OpenAI's own Python client against a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from gateway.interface import Routed
from p2pnet.errors import Busy, ModelNotFound, PeerLost
from p2pnet.messages import Accepted, ChatPrompt, GenerateRequest, TextDelta, TextPrompt
from tests.gateway.fake_generate import DIGEST, FakeGenerate, Serve, Step, answer

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
Connect = Callable[..., Awaitable[openai.AsyncOpenAI]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    """`await connect(generate)` gives the official client of a server that plays `generate`."""
    clients: list[openai.AsyncOpenAI] = []

    async def start(generate: FakeGenerate, max_retries: int = 0) -> openai.AsyncOpenAI:
        server = await serve(generate)
        client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=max_retries)
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.close()


async def test_list_and_retrieve_models(connect: Connect) -> None:
    client = await connect(FakeGenerate())
    assert [model.id async for model in client.models.list()] == ["tiny", "org/large"]
    model = await client.models.retrieve("org/large")
    assert (model.id, model.created, model.owned_by) == ("org/large", 1_700_000_001, "p2pnet")
    with pytest.raises(openai.NotFoundError) as missing:
        await client.models.retrieve("nothing")
    assert missing.value.code == "model_not_found"


async def test_chat(connect: Connect) -> None:
    generate = FakeGenerate(*answer("Hel", "lo"))
    client = await connect(generate)
    reply = await client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=5)
    assert reply.id == "chatcmpl-0123"
    assert reply.choices[0].message.content == "Hello"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.system_fingerprint == DIGEST
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 2, 9)
    assert reply._request_id == generate.requests[0].request_id
    assert isinstance(generate.requests[0].prompt, ChatPrompt)


async def test_chat_stream_with_usage(connect: Connect) -> None:
    client = await connect(FakeGenerate(*answer("Hel", "lo", reason="length")))
    stream = await client.chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["", "Hel", "lo", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, None, "length"]
    assert {(chunk.id, chunk.created, chunk.model) for chunk in chunks} == {("chatcmpl-0123", 1_700_000_100, "tiny")}
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 9


async def test_the_clients_own_accumulator_reads_the_stream(connect: Connect) -> None:
    client = await connect(FakeGenerate(*answer("Hel", "lo")))
    async with client.chat.completions.stream(model="tiny", messages=MESSAGES) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello"


async def test_completions(connect: Connect) -> None:
    generate = FakeGenerate(*answer(" upon", " a time"))
    client = await connect(generate)
    whole = await client.completions.create(model="tiny", prompt="Once")
    stream = await client.completions.create(model="tiny", prompt=["Once"], stream=True)
    chunks = [chunk async for chunk in stream]
    assert whole.id == "cmpl-0123"
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == " upon a time"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert [request.prompt for request in generate.requests] == [TextPrompt("Once")] * 2
    assert generate.requests[0].max_tokens == 16


async def test_errors_have_the_clients_own_types(connect: Connect) -> None:
    def script(request: GenerateRequest) -> list[Step]:
        return [ModelNotFound("no such model") if request.model == "unknown" else Busy("full")]

    generate = FakeGenerate()
    generate.script = script
    client = await connect(generate)
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, n=129)
    with pytest.raises(openai.NotFoundError) as missing:
        await client.chat.completions.create(model="unknown", messages=MESSAGES, stream=True)
    with pytest.raises(openai.RateLimitError) as busy:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    assert (bad.value.param, bad.value.type) == ("n", "invalid_request_error")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert busy.value.code == "busy"
    assert busy.value.response.headers["retry-after"] == "1"
    assert busy.value.request_id


async def test_the_client_waits_and_repeats_a_busy_request(connect: Connect) -> None:
    generate = FakeGenerate()
    generate.script = lambda _: [Busy("full")] if len(generate.requests) == 1 else answer("yes")
    client = await connect(generate, max_retries=1)
    reply = await client.chat.completions.create(model="tiny", messages=MESSAGES)
    assert reply.choices[0].message.content == "yes"
    assert len(generate.requests) == 2


async def test_a_stream_that_breaks_raises(connect: Connect) -> None:
    client = await connect(FakeGenerate(Accepted(7), TextDelta("Hel"), PeerLost("the worker went away")))
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the worker went away") as broken:
        [chunk async for chunk in stream]
    assert broken.value.code == "peer_lost"


async def test_a_client_that_closes_its_stream_closes_the_generation(connect: Connect) -> None:
    generate = FakeGenerate(Accepted(7), TextDelta("Hel"), asyncio.Event())
    client = await connect(generate)
    stream = await client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
    await generate.is_waiting.wait()
    await stream.close()
    await generate.has_closed.wait()
    assert generate.closed == 1


async def test_twenty_requests_at_once_do_not_mix(connect: Connect) -> None:
    everyone = asyncio.Event()
    generate = FakeGenerate()

    def script(request: GenerateRequest) -> list[Step]:
        if len(generate.requests) == 20:
            everyone.set()
        assert isinstance(request.prompt, TextPrompt)
        accepted, *rest = answer(*request.prompt.text)
        return [accepted, everyone, *rest]

    generate.script = script
    client = await connect(generate)

    async def ask(text: str) -> str:
        stream = await client.completions.create(model="tiny", prompt=text, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    texts = [f"question number {i}" for i in range(20)]
    assert await asyncio.gather(*(ask(text) for text in texts)) == texts
    assert generate.closed == 20


async def test_the_blocking_client(serve: Serve) -> None:
    server = await serve(FakeGenerate(*answer("Hel", "lo")))

    def talk() -> tuple[list[str], str | None, str]:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            models = [model.id for model in client.models.list()]
            whole = client.chat.completions.create(model="tiny", messages=MESSAGES)
            stream = client.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
            return models, whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in stream)

    assert await asyncio.to_thread(talk) == (["tiny", "org/large"], "Hello", "Hello")


async def test_embeddings(connect: Connect) -> None:
    """The client asks for base64 unless told otherwise, and decodes it."""
    client = await connect(FakeGenerate())
    reply = await client.embeddings.create(model="tiny", input=["one", "two", "three"])
    assert [each.index for each in reply.data] == [0, 1, 2]
    assert [each.embedding for each in reply.data] == [[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]]
    plain = await client.embeddings.create(model="tiny", input=[[1, 2], [3]], encoding_format="float")
    assert [each.embedding for each in plain.data] == [[0.0, 0.5], [1.0, 0.5]]
    assert (plain.usage.prompt_tokens, plain.usage.total_tokens) == (2, 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["one", ""]}, "input"),
        ({"input": [[-1]]}, "input"),
        ({"input": ["one", 2]}, "input"),
        ({"input": "one", "dimensions": 0}, "dimensions"),
        ({"input": "one", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "one", "extra_body": {"truncate_prompt_tokens": 5}}, "truncate_prompt_tokens"),
        ({"input": "one", "extra_body": {"endianness": "big"}}, "endianness"),
        ({"input": "one", "extra_body": {"embed_dtype": "float16"}}, "embed_dtype"),
    ],
)
async def test_embeddings_that_cannot_be_made_are_refused_by_field(
    connect: Connect, fields: dict[str, Any], param: str
) -> None:
    client = await connect(FakeGenerate())
    with pytest.raises(openai.BadRequestError) as refused:
        await client.embeddings.create(**({"model": "tiny"} | fields))
    assert refused.value.param == param


async def test_a_reply_says_who_answered(connect: Connect) -> None:
    steps = answer("Hi")
    client = await connect(FakeGenerate(Routed("12D3KooW", 2, 31), *steps))
    whole = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES)
    stream = await client.chat.completions.with_raw_response.create(model="tiny", messages=MESSAGES, stream=True)
    for response in (whole, stream):
        headers = response.headers
        assert headers["x-p2pnet-worker"] == "12D3KooW"
        assert (headers["x-p2pnet-attempts"], headers["x-p2pnet-queue-ms"]) == ("2", "31")
