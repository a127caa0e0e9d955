"""Anthropic's own client, unmodified, through a gateway to workers: real processes where a story needs no more."""

from __future__ import annotations

import asyncio

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from p2pnet.worker.backends.synthetic.echo import EchoBackend, EchoOptions
from tests.gateway.scripted_swarm import scripted_swarm
from tests.gateway.weather_model import FORECAST, TEXT

WEATHER: ToolParam = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


def said(text: str) -> list[MessageParam]:
    return [{"role": "user", "content": text}]


async def text_of(client: anthropic.AsyncAnthropic, messages: list[MessageParam], model: str = "echo") -> str:
    async with client.messages.stream(model=model, max_tokens=50, messages=messages) as stream:
        return "".join([text async for text in stream.text_stream])


async def test_a_text_a_loop_of_tools_and_a_count(swarm_url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=swarm_url, api_key="none", max_retries=0) as client:
        assert await text_of(client, said("Why?"), "scripted") == TEXT
        messages = said("How is the weather in Bern?")
        async with client.messages.stream(
            model="scripted", max_tokens=50, messages=messages, tools=[WEATHER]
        ) as stream:
            asked = await stream.get_final_message()
        calls = [block for block in asked.content if block.type == "tool_use"]
        assert [call.input["city"] for call in calls] == ["Bern", "Genève"]
        messages.append({"role": "assistant", "content": asked.content})
        messages.append(
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"} for call in calls],
            }
        )
        answered = await client.messages.create(model="scripted", max_tokens=50, messages=messages, tools=[WEATHER])
        assert [block.text for block in answered.content if block.type == "text"] == [FORECAST]
        count = await client.messages.count_tokens(model="scripted", messages=said("one two three"))
        assert count.input_tokens == 3
        with pytest.raises(anthropic.BadRequestError, match="resume_text"):
            await text_of(client, [*said("Why?"), {"role": "assistant", "content": "The"}], "scripted")
        with pytest.raises(anthropic.NotFoundError, match="unheard-of"):
            await text_of(client, said("Why?"), "unheard-of")


async def test_the_stop_sequence_that_ended_it_is_named(swarm_url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=swarm_url, api_key="none", max_retries=0) as client:
        ended = [
            await client.messages.create(
                model="echo", max_tokens=50, messages=said("one two three"), stop_sequences=list(stops)
            )
            for stops in (["four", " three"], ["four"])
        ]
    assert [(reply.stop_reason, reply.stop_sequence) for reply in ended] == [
        ("stop_sequence", " three"),
        ("end_turn", None),
    ]
    assert [block.text for reply in ended for block in reply.content if block.type == "text"] == [
        "one two",
        "one two three",
    ]


async def test_a_prefilled_answer_outlives_its_worker() -> None:
    """Given an answer whose beginning the client gave, when its worker fails in mid-answer, then another goes on."""
    failing = EchoBackend(EchoOptions(fails_after_tokens=2))
    async with (
        scripted_swarm([failing], [EchoBackend()]) as url,
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client,
    ):
        begun: MessageParam = {"role": "assistant", "content": "one tw"}
        assert (
            await text_of(client, [*said("one two three four five six seven"), begun]) == "o three four five six seven"
        )


async def test_models_an_alias_a_model_that_breaks_and_the_blocking_client(swarm_url: str) -> None:
    async with anthropic.AsyncAnthropic(base_url=swarm_url, api_key="none", max_retries=0) as client:
        assert "scripted" in [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("gpt-4o-mini")).id == "scripted"
        assert await text_of(client, said("Why?"), "gpt-4o-mini") == TEXT
        with pytest.raises(anthropic.APIStatusError):
            await text_of(client, said("Why?"), "breaks")

    def talk() -> tuple[str, int]:
        with anthropic.Anthropic(base_url=swarm_url, api_key="none", max_retries=0) as blocking:
            with blocking.messages.stream(model="scripted", max_tokens=50, messages=said("Why?")) as stream:
                text = "".join(stream.text_stream)
            return text, blocking.messages.count_tokens(model="scripted", messages=said("one two")).input_tokens

    assert await asyncio.to_thread(talk) == (TEXT, 2)
