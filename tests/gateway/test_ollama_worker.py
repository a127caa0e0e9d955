"""Ollama's client and LangChain's, unmodified, through a whole gateway to a worker with a scripted model."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaLLM
from pydantic import BaseModel

from gateway.app import create_app
from gateway.peers.table import PeerTable
from gateway.server import serve_http
from gateway.service import GatewayService
from gateway.serving import Serving
from p2pnet.config import WorkerConfig
from p2pnet.directory import Directory
from p2pnet.errors import WorkerFailed
from p2pnet.memory_network import MemoryWorld
from p2pnet.messages import ChatPrompt, GenerateRequest, JsonSchemaFormat
from p2pnet.worker.backends.echo import EchoBackend
from p2pnet.worker.backends.scripted import Call, Said, ScriptedBackend
from p2pnet.worker.serve import Worker
from tests.stories import ManualClock, peer

TEXT = "The sky is blue «because» of Rayleigh\u2028scattering."
FORECAST = "It rains in Bern."
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


def script(request: GenerateRequest) -> Said:
    """A call of the offered tool and then its result, JSON where a schema is asked for, and else a text."""
    if isinstance(request.response_format, JsonSchemaFormat):
        return Said('{"city": "Bern", "days": 2}')
    if isinstance(request.prompt, ChatPrompt) and request.prompt.tools:
        if request.prompt.messages[-1].role == "tool":
            return Said(FORECAST)
        name = request.prompt.tools[0].name
        return Said(calls=(Call(name, '{"city": "Bern", "days": 2}'), Call(name, '{"city": "Genève", "days": 1}')))
    return Said(TEXT)


@dataclass
class Failing:
    """A gate that breaks the model at one token, when it is told which."""

    at_token: int | None = None

    async def __call__(self, token_id: int) -> None:
        if token_id == self.at_token:
            raise WorkerFailed("the model broke")


@dataclass(frozen=True)
class Story:
    url: str
    backend: ScriptedBackend
    gate: Failing


@pytest.fixture
async def story() -> AsyncIterator[Story]:
    """A gateway on loopback, and behind it one worker with the models `scripted` and `echo`."""
    clock = ManualClock()
    world = MemoryWorld(clock)
    gate = Failing()
    backend = ScriptedBackend(script, gate=gate)
    async with AsyncExitStack() as running:
        identity = peer("worker")
        network = world.join(identity.peer_id)
        config = WorkerConfig(drain_s=0)
        worker = await Worker.start(network, identity, [backend, EchoBackend()], clock, config)
        running.push_async_callback(worker.stop)
        network = world.join(peer("gateway").peer_id)
        table = PeerTable(Directory(network, clock), unix_s=lambda: clock() / 1000)
        await table.refresh()
        serving = await running.enter_async_context(Serving(network, table, rng=random.Random(1)))
        service = GatewayService(
            generate=serving.dispatcher.run,
            embed=serving.dispatcher.embed,
            list_models=table.models,
            is_ready=lambda: True,
        )
        server = await serve_http(create_app(service), "127.0.0.1", 0)
        running.push_async_callback(server.stop, drain_s=0)
        yield Story(server.url, backend, gate)


async def test_ollamas_client_end_to_end(story: Story) -> None:
    async with ollama.AsyncClient(story.url) as client:
        assert [model.model for model in (await client.list()).models] == ["echo:latest", "scripted:latest"]
        shown = await client.show("scripted:latest")
        assert shown.capabilities == ["completion", "tools"]
        assert shown.modelinfo is not None and shown.modelinfo["scripted.context_length"] == 4096
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
    prompt = story.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    assert [message.content for message in prompt.messages] == ["why?", "The sky is ", "and?"]


async def test_a_loop_of_tools(story: Story) -> None:
    async with ollama.AsyncClient(story.url) as client:
        messages: list[Any] = [*MESSAGES]
        asked = await client.chat("scripted", messages, tools=[weather])
        messages.append(asked.message)
        for call in asked.message.tool_calls or ():
            result = weather(**call.function.arguments)
            messages.append({"role": "tool", "tool_name": call.function.name, "content": result})
        told = await client.chat("scripted", messages, tools=[weather])
    assert told.message.content == FORECAST
    prompt = story.backend.requests[-1].prompt
    assert isinstance(prompt, ChatPrompt)
    *_, assistant, first, second = prompt.messages
    assert [first.tool_call_id, second.tool_call_id] == [call.id for call in assistant.tool_calls]
    assert second.content == "rain in Genève for 1 days"


async def test_what_a_worker_cannot_do_is_said_in_ollamas_words(story: Story) -> None:
    async with ollama.AsyncClient(story.url) as client:
        for call, message in (
            (client.chat("echo", MESSAGES, tools=[weather]), "echo does not support tools"),
            (client.chat("echo", MESSAGES, format="json"), "echo does not support format"),
            (client.chat("scripted", [{"role": "user", "content": "word " * 5000}]), "context"),
        ):
            with pytest.raises(ollama.ResponseError, match=message) as refused:
                await call
            assert refused.value.status_code == 400
        with pytest.raises(ollama.ResponseError, match="model 'nothing' not found") as missing:
            await client.chat("nothing", MESSAGES)
        assert missing.value.status_code == 404


async def test_a_worker_that_breaks_in_mid_stream_ends_it_with_an_error(story: Story) -> None:
    story.gate.at_token = 3
    said = ""
    async with ollama.AsyncClient(story.url) as client:
        with pytest.raises(ollama.ResponseError):
            async for part in await client.chat("scripted", MESSAGES, stream=True):
                assert not part.done
                said += part.message.content or ""
    assert TEXT.startswith(said) and said


async def test_langchain_invoke_and_stream(story: Story) -> None:
    chat = ChatOllama(
        model="scripted", base_url=story.url, temperature=0, num_ctx=2048, seed=7, num_predict=-1, keep_alive="5m"
    )
    answer = await chat.ainvoke("Why is the sky blue?")
    assert answer.content == TEXT
    assert answer.response_metadata["done_reason"] == "stop"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] > 3
    chunks = [chunk async for chunk in chat.astream("Why is the sky blue?")]
    assert "".join(str(chunk.content) for chunk in chunks) == TEXT
    assert [reason for chunk in chunks if (reason := chunk.response_metadata.get("done_reason"))] == ["stop"]
    request = story.backend.requests[0]
    assert (request.sampling.temperature, request.sampling.seed, request.max_tokens) == (0.0, 7, 2048)
    stopped = await chat.ainvoke("Why?", stop=["blue"])
    assert stopped.content == "The sky is "


async def test_langchain_structured_output(story: Story) -> None:
    structured = ChatOllama(model="scripted:latest", base_url=story.url).with_structured_output(Weather)
    assert await structured.ainvoke("The weather?") == Weather(city="Bern", days=2)
    schema = story.backend.requests[0].response_format
    assert isinstance(schema, JsonSchemaFormat)
    assert '"required":["city","days"]' in schema.schema


async def test_langchain_tool_calls(story: Story) -> None:
    chat = ChatOllama(model="scripted", base_url=story.url).bind_tools([weather])
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


async def test_langchain_completions_and_errors(story: Story) -> None:
    completion = OllamaLLM(model="scripted", base_url=story.url)
    assert await completion.ainvoke("Why is the sky blue?") == TEXT
    with pytest.raises(ollama.ResponseError, match="model 'nothing' not found"):
        await ChatOllama(model="nothing", base_url=story.url).ainvoke("hi")
