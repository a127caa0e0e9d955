"""Ollama's client and LangChain's, unmodified, through a gateway and a worker, real processes, to scripted models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaLLM
from pydantic import BaseModel

from tests.gateway.real_swarm import CONTEXT_LENGTH
from tests.gateway.weather_model import FORECAST, TEXT

MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    days: int


def weather(city: str, days: int) -> str:
    """Looks the weather up.

    Args:
      city: Where.
      days: For how long.
    """
    return f"rain in {city} for {days} days"


@pytest.fixture
async def client(swarm_url: str) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(swarm_url) as client:
        yield client


async def test_ollamas_client_end_to_end(client: ollama.AsyncClient) -> None:
    assert {"echo:latest", "scripted:latest"} <= {model.model for model in (await client.list()).models}
    assert "scripted:latest" in {model.model for model in (await client.ps()).models}
    shown = await client.show("scripted:latest")
    assert shown.capabilities == ["completion", "tools", "vision"]
    assert shown.modelinfo is not None and shown.modelinfo["scripted.context_length"] == CONTEXT_LENGTH
    whole = await client.chat("scripted", MESSAGES)
    parts = [part async for part in await client.chat("scripted:latest", MESSAGES, stream=True)]
    assert whole.message.content == TEXT
    assert "".join(part.message.content or "" for part in parts) == TEXT
    assert (whole.done_reason, whole.eval_count) == (parts[-1].done_reason, parts[-1].eval_count)
    cut = await client.chat("scripted", MESSAGES, options={"num_predict": 2, "top_k": 40, "repeat_penalty": 1.1})
    assert (cut.message.content, cut.done_reason, cut.eval_count) == ("The sky", "length", 2)
    stopped = await client.generate("scripted", "why?", options={"stop": ["blue"]})
    assert (stopped.response, stopped.done_reason) == ("The sky is ", "stop")
    more = await client.generate("scripted", "and?", context=stopped.context)
    assert more.response == TEXT
    assert more.prompt_eval_count == stopped.prompt_eval_count + 4  # what was said, and the new question
    streamed = [part async for part in await client.generate("scripted", "why?", stream=True)]
    assert "".join(part.response or "" for part in streamed) == TEXT
    assert (await client.chat("scripted")).done_reason == "load"
    assert (await client.generate("gpt-4o-mini", keep_alive=0)).done_reason == "unload"


async def test_vectors(client: ollama.AsyncClient) -> None:
    many = await client.embed("vectors", ["one", "two"])
    assert [len(vector) for vector in many.embeddings] == [4, 4]
    assert (await client.embed("vectors", "two", dimensions=2)).embeddings[0] != many.embeddings[1]
    assert (await client.embeddings("vectors", "one")).embedding == many.embeddings[0]


async def test_formats(client: ollama.AsyncClient) -> None:
    for asked in ("json", Weather.model_json_schema()):
        reply = await client.chat("scripted", MESSAGES, format=asked)  # type: ignore[arg-type]
        assert Weather.model_validate_json(reply.message.content or "") == Weather(city="Bern", days=2)


async def test_a_loop_of_tools(client: ollama.AsyncClient) -> None:
    messages: list[Any] = [*MESSAGES]
    asked = await client.chat("scripted", messages, tools=[weather])
    messages.append(asked.message)
    for call in asked.message.tool_calls or ():
        result = weather(**call.function.arguments)
        messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
    assert [message["content"] for message in messages[2:]] == ["rain in Bern for 2 days", "rain in Genève for 1 days"]
    told = await client.chat("scripted", messages, tools=[weather])
    assert told.message.content == FORECAST


async def test_what_a_worker_cannot_do_is_said_in_ollamas_words(client: ollama.AsyncClient) -> None:
    for call, message in (
        (client.chat("echo", MESSAGES, tools=[weather]), "echo does not support tools"),
        (client.chat("echo", MESSAGES, format="json"), "echo does not support format"),
        (client.chat("scripted", [{"role": "user", "content": "word " * 20_000}]), "context"),
    ):
        with pytest.raises(ollama.ResponseError, match=message) as refused:
            await call
        assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as missing:
        await client.chat("nothing", MESSAGES)
    assert missing.value.status_code == 404


async def test_a_worker_that_breaks_in_mid_stream_ends_it_with_an_error(client: ollama.AsyncClient) -> None:
    said = ""
    with pytest.raises(ollama.ResponseError):
        async for part in await client.chat("breaks", MESSAGES, stream=True):
            assert not part.done
            said += part.message.content or ""
    assert TEXT.startswith(said) and said


async def test_the_blocking_client(swarm_url: str) -> None:
    def talk() -> list[str | None]:
        with ollama.Client(swarm_url) as blocking:
            streamed = blocking.chat("scripted", MESSAGES, stream=True)
            return [
                blocking.chat("scripted", MESSAGES).message.content,
                "".join(part.message.content or "" for part in streamed),
                blocking.generate("scripted", "why?").response,
            ]

    assert await asyncio.to_thread(talk) == [TEXT] * 3


async def test_langchain_invoke_and_stream(swarm_url: str) -> None:
    chat = ChatOllama(
        model="scripted", base_url=swarm_url, temperature=0, num_ctx=2048, seed=7, num_predict=-1, keep_alive="5m"
    )
    answer = await chat.ainvoke("Why is the sky blue?")
    assert answer.content == TEXT
    assert answer.response_metadata["done_reason"] == "stop"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 3
    chunks = [chunk async for chunk in chat.astream("Why is the sky blue?")]
    assert "".join(str(chunk.content) for chunk in chunks) == TEXT
    assert [reason for chunk in chunks if (reason := chunk.response_metadata.get("done_reason"))] == ["stop"]
    stopped = await chat.ainvoke("Why?", stop=["blue"])
    assert stopped.content == "The sky is "
    seeds = ChatOllama(model="seeds", base_url=swarm_url, seed=7)
    assert (await seeds.ainvoke("Which?")).content == "seed 7"


async def test_langchain_structured_output(swarm_url: str) -> None:
    structured = ChatOllama(model="scripted:latest", base_url=swarm_url).with_structured_output(Weather)
    assert await structured.ainvoke("The weather?") == Weather(city="Bern", days=2)


async def test_langchain_tool_calls(swarm_url: str) -> None:
    chat = ChatOllama(model="scripted", base_url=swarm_url).bind_tools([weather])
    question = HumanMessage("Will it rain?")
    asked = await chat.ainvoke([question])
    assert isinstance(asked, AIMessage)
    expected = [("weather", {"city": "Bern", "days": 2}), ("weather", {"city": "Genève", "days": 1})]
    assert [(call["name"], call["args"]) for call in asked.tool_calls] == expected
    results = [ToolMessage(weather(**call["args"]), tool_call_id=call["id"]) for call in asked.tool_calls]
    told = await chat.ainvoke([question, asked, *results])
    assert told.content == FORECAST
    streamed: AIMessageChunk | None = None
    async for chunk in chat.astream([question]):
        assert isinstance(chunk, AIMessageChunk)
        streamed = chunk if streamed is None else streamed + chunk
    assert streamed is not None
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == expected


async def test_langchain_completions_and_errors(swarm_url: str) -> None:
    completion = OllamaLLM(model="scripted", base_url=swarm_url)
    assert await completion.ainvoke("Why is the sky blue?") == TEXT
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found"):
        await ChatOllama(model="nothing", base_url=swarm_url).ainvoke("hi")
