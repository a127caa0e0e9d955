"""OpenAI's own client, unmodified, through a gateway and a worker, real processes, to scripted models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseInputParam
from pydantic import BaseModel

from gateway.surfaces.openai.response_tools import NOTE
from tests.gateway.real_swarm import SLOTS
from tests.gateway.weather_model import CALLS, FORECAST, TEXT, WEATHER_JSON

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How is the weather in Bern?"}]
ARGUMENTS = [call.arguments for call in CALLS]


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    days: int


PARAMETERS: dict[str, Any] = Weather.model_json_schema()
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
RESPONSE_TOOL: Any = {"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": False}


@pytest.fixture
async def client(swarm_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=swarm_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_a_loop_of_tools(client: openai.AsyncOpenAI) -> None:
    """The model calls, the client answers each call, the model says what it makes of that."""
    first = await client.chat.completions.create(model="scripted", messages=MESSAGES, tools=[CHAT_TOOL])
    choice = first.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = choice.message.tool_calls or []
    assert [call.function.arguments for call in calls if call.type == "function"] == ARGUMENTS
    assert len({call.id for call in calls}) == 2
    results: list[ChatCompletionMessageParam] = [
        {"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in calls
    ]
    turns: list[Any] = [*MESSAGES, choice.message, *results]
    last = await client.chat.completions.create(model="scripted", messages=turns, tools=[CHAT_TOOL])
    assert (last.choices[0].finish_reason, last.choices[0].message.content) == ("stop", FORECAST)


async def test_calls_of_tools_in_a_stream(client: openai.AsyncOpenAI) -> None:
    """Put together by the client's own accumulator: the same as in one piece."""
    asked: dict[str, Any] = {"model": "scripted", "messages": MESSAGES, "tools": [CHAT_TOOL], "seed": 7}
    whole = await client.chat.completions.create(**asked)
    async with client.chat.completions.stream(**asked) as stream:
        streamed = await stream.get_final_completion()
    one, other = (
        [(call.id, call.function.name, call.function.arguments) for call in reply.choices[0].message.tool_calls or ()]
        for reply in (whole, streamed)
    )
    assert one == other
    assert [arguments for _, _, arguments in one] == ARGUMENTS


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}], ids=str)
async def test_one_call_that_has_to_be_made(client: openai.AsyncOpenAI, choice: Any) -> None:
    reply = await client.chat.completions.create(
        model="scripted", messages=MESSAGES, tools=[CHAT_TOOL], tool_choice=choice, parallel_tool_calls=False
    )
    assert len(reply.choices[0].message.tool_calls or []) == 1


async def test_structured_output_is_parsed(client: openai.AsyncOpenAI) -> None:
    parsed = await client.chat.completions.parse(model="scripted", messages=MESSAGES, response_format=Weather)
    assert parsed.choices[0].message.parsed == Weather(city="Bern", days=2)
    json_mode = await client.chat.completions.create(
        model="scripted", messages=MESSAGES, response_format={"type": "json_object"}
    )
    assert json_mode.choices[0].message.content == WEATHER_JSON
    async with client.chat.completions.stream(model="scripted", messages=MESSAGES, response_format=Weather) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == Weather(city="Bern", days=2)


async def test_calls_are_parsed_by_a_model_of_pydantic(client: openai.AsyncOpenAI) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    parsed = await client.chat.completions.parse(model="scripted", messages=MESSAGES, tools=[tool])
    calls = parsed.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [
        Weather(city="Bern", days=2),
        Weather(city="Genève", days=1),
    ]


async def test_several_choices_are_the_same_streamed_and_whole(client: openai.AsyncOpenAI) -> None:
    asked: dict[str, Any] = {"model": "seeds", "messages": MESSAGES, "n": 3, "seed": 7}
    whole = await client.chat.completions.create(**asked)
    texts: dict[int, str] = {}
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert texts[0] == "seed 7"
    assert len(set(texts.values())) == 3
    card = await client.models.retrieve("seeds")
    assert [whole.system_fingerprint] == card.model_extra["digests"]  # type: ignore[index]


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(
        model="scripted", messages=MESSAGES, logprobs=True, top_logprobs=2, logit_bias={"5": 1}
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert bytes(byte for entry in logprobs.content for byte in entry.bytes or ()).decode() == TEXT
    assert {len(entry.top_logprobs) for entry in logprobs.content} == {2}
    async with client.chat.completions.stream(model="scripted", messages=MESSAGES, logprobs=True) as stream:
        final = await stream.get_final_completion()
    streamed = final.choices[0].logprobs
    assert streamed is not None
    assert [entry.logprob for entry in streamed.content or ()] == [entry.logprob for entry in logprobs.content]


async def test_several_prompts_side_by_side(client: openai.AsyncOpenAI) -> None:
    """Choices are numbered prompt by prompt, streamed or not, and all tokens are counted."""
    asked: dict[str, Any] = {"model": "seeds", "prompt": ["a", "b c"], "n": 2, "seed": 7}
    whole = await client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts = [choice.text for choice in whole.choices]
    assert texts[:2] == texts[2:] and texts[0] != texts[1]
    assert whole.usage is not None and whole.usage.prompt_tokens == 3
    streamed: dict[int, str] = {}
    async for chunk in await client.completions.create(**asked, stream=True):
        streamed[chunk.choices[0].index] = streamed.get(chunk.choices[0].index, "") + chunk.choices[0].text
    assert [streamed[index] for index in range(4)] == texts


async def test_a_prompt_echoed_with_logprobs(client: openai.AsyncOpenAI) -> None:
    reply = await client.completions.create(model="scripted", prompt="Look up:", echo=True, logprobs=1, max_tokens=3)
    choice = reply.choices[0]
    assert choice.text == "Look up:The sky is"
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or ()) == choice.text
    assert choice.logprobs.text_offset == [0, 4, 8, 11, 15]
    assert choice.logprobs.token_logprobs is not None and choice.logprobs.token_logprobs[0] is None
    ids = await client.completions.create(model="scripted", prompt=[[1, 2], [3]], stop=" is")
    assert [choice.text for choice in ids.choices] == ["The sky", "The sky"]


@pytest.mark.parametrize("prompts", [["Look up:", "Down"], [[1, 2], [3]]], ids=["texts", "ids"])
async def test_prompts_scored_as_evaluation_harnesses_do(client: openai.AsyncOpenAI, prompts: Any) -> None:
    """Nothing but the prompts and their logprobs; the same as with a token behind them, which harnesses cut off."""
    asked: dict[str, Any] = {"model": "scripted", "prompt": prompts, "echo": True, "logprobs": 1, "temperature": 0}
    scored = await client.completions.create(**asked, max_tokens=0)
    longer = await client.completions.create(**asked, max_tokens=1)
    streamed = [chunk async for chunk in await client.completions.create(**asked, max_tokens=0, stream=True)]
    assert scored.usage is not None and (scored.usage.prompt_tokens, scored.usage.completion_tokens) == (3, 0)
    for index, (one, other) in enumerate(zip(scored.choices, longer.choices, strict=True)):
        assert one.finish_reason == "length"
        assert one.logprobs is not None and other.logprobs is not None
        assert one.logprobs.tokens == (other.logprobs.tokens or [])[:-1]
        assert one.logprobs.token_logprobs == (other.logprobs.token_logprobs or [])[:-1]
        assert one.logprobs.top_logprobs == (other.logprobs.top_logprobs or [])[:-1]
        texts = [chunk.choices[0].text for chunk in streamed if chunk.choices[0].index == index]
        assert "".join(texts) == one.text == "".join(one.logprobs.tokens or ())
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="scripted", prompt="a", max_tokens=0)
    assert refused.value.param == "max_tokens"


async def test_embeddings(client: openai.AsyncOpenAI) -> None:
    """Texts and token ids, in their order, as numbers and as base64, whole and cut."""
    many = await client.embeddings.create(model="vectors", input=["one", "two", "one"])
    assert [each.index for each in many.data] == [0, 1, 2]
    first, second, third = (each.embedding for each in many.data)
    assert first == third != second and len(first) == 4
    plain = await client.embeddings.create(model="vectors", input="two", encoding_format="float")
    assert plain.data[0].embedding == second
    cut = await client.embeddings.create(model="vectors", input=[[1, 2], [3]], dimensions=2)
    assert [len(each.embedding) for each in cut.data] == [2, 2]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.embeddings.create(model="scripted", input="one")
    assert refused.value.param == "model"


async def test_the_client_repeats_a_request_that_found_all_places_taken(client: openai.AsyncOpenAI) -> None:
    """Given a model whose places are all taken, who does not wait in the queue is told 429 and when to come back, and
    who has waited in vain 504. The client asks again by itself, and is served once there is room."""
    asked: dict[str, Any] = {"model": "slow", "messages": MESSAGES, "max_tokens": 900}
    at_once = {**asked, "max_tokens": 1, "extra_headers": {"x-p2pnet-wait-s": "0"}}
    soon = {**at_once, "extra_headers": {"x-p2pnet-wait-s": "0.1"}}
    statuses: list[int] = []
    async with AsyncExitStack() as taken:
        for _ in range(SLOTS):
            await taken.enter_async_context(await client.chat.completions.create(**asked, stream=True))
        with pytest.raises(openai.RateLimitError) as busy:
            await client.chat.completions.create(**at_once)
        assert (busy.value.code, busy.value.response.headers["retry-after"]) == ("busy", "1")
        with pytest.raises(openai.InternalServerError) as in_vain:
            await client.chat.completions.create(**soon)
        assert (in_vain.value.status_code, in_vain.value.code) == (504, "deadline_exceeded")
        assert int(in_vain.value.response.headers["retry-after"]) >= 1

        async def make_room(response: httpx.Response) -> None:
            statuses.append(response.status_code)
            await taken.aclose()

        http = openai.DefaultAsyncHttpxClient(event_hooks={"response": [make_room]})
        async with client.with_options(max_retries=5, http_client=http) as repeating:
            reply = await repeating.chat.completions.create(**at_once)
    assert reply.choices[0].message.content == "so"
    assert statuses == [429, 200]


async def test_an_alias(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert reply.choices[0].message.content == TEXT
    assert (await client.models.retrieve("gpt-4o-mini")).id == "scripted"


async def test_a_completion_of_code_needs_no_model(client: openai.AsyncOpenAI) -> None:
    """Editors' plugins name one of Codex's time, or none."""
    legacy = await client.completions.create(model="copilot-codex", prompt="def f():", max_tokens=1)
    async with httpx.AsyncClient() as http:
        none = await http.post(f"{client.base_url}completions", json={"prompt": "def f():", "max_tokens": 1})
    assert legacy.model == none.json()["model"] == "breaks"
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="scripted", prompt="def f():", suffix="return x")
    assert (refused.value.param, refused.value.code) == ("suffix", "feature_missing")


async def test_a_model_that_cannot_is_a_400_that_names_the_field(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="echo", messages=MESSAGES, tools=[CHAT_TOOL])
    assert (refused.value.param, refused.value.code) == ("tools", "feature_missing")
    none = await client.chat.completions.create(model="echo", messages=MESSAGES, tools=[CHAT_TOOL], tool_choice="none")
    assert none.choices[0].message.content == MESSAGES[0].get("content")


# ---- responses


async def test_a_response(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="scripted", input="Why?", instructions="be brief", metadata={"a": "b"}, max_output_tokens=100
    )
    assert (response.status, response.output_text, response.metadata) == ("completed", TEXT, {"a": "b"})
    assert response.usage is not None and response.usage.input_tokens == 3
    cut = await client.responses.create(model="scripted", input="Why?", max_output_tokens=2)
    assert (cut.status, cut.output_text) == ("incomplete", "The sky")
    assert cut.incomplete_details is not None and cut.incomplete_details.reason == "max_output_tokens"


async def test_a_streamed_response(client: openai.AsyncOpenAI) -> None:
    events = [event async for event in await client.responses.create(model="scripted", input="Why?", stream=True)]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    assert [event.sequence_number for event in events] == list(range(len(events)))
    async with client.responses.stream(model="scripted", input="Why?") as stream:
        final = await stream.get_final_response()
    assert final.output_text == TEXT


async def test_a_loop_of_tools_in_responses(client: openai.AsyncOpenAI) -> None:
    """What came out goes in again as it is, with the results behind it."""
    given: ResponseInputParam = [{"role": "user", "content": "How is the weather?"}]
    async with client.responses.stream(model="scripted", input=given, tools=[RESPONSE_TOOL]) as stream:
        first = await stream.get_final_response()
    calls = [item for item in first.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ARGUMENTS
    turns: list[Any] = [*given, *(item.to_dict() for item in first.output)]
    turns += [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    last = await client.responses.create(model="scripted", input=turns, tools=[RESPONSE_TOOL])
    assert last.output_text == FORECAST


async def test_a_response_is_parsed(client: openai.AsyncOpenAI) -> None:
    parsed = await client.responses.parse(model="scripted", input="Weather?", text_format=Weather)
    assert parsed.output_parsed == Weather(city="Bern", days=2)
    async with client.responses.stream(model="scripted", input="Weather?", text_format=Weather) as stream:
        assert (await stream.get_final_response()).output_parsed == Weather(city="Bern", days=2)


async def test_a_response_that_breaks_off(client: openai.AsyncOpenAI) -> None:
    events = [event async for event in await client.responses.create(model="breaks", input="Why?", stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed" and last.response.error is not None
    assert last.response.output_text == "The sky is"


async def test_what_responses_cannot_do_here_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    for fields in (
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"conversation": "conv_1"},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="scripted", input="hi", **fields)
        assert refused.value.param == next(iter(fields))
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        await client.responses.create(
            model="scripted", input="hi", tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}
        )
    with pytest.raises(openai.NotFoundError, match="not stored"):
        await client.responses.retrieve("resp_1")
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="unknown", input="hi")


async def test_tools_that_run_at_openai_are_left_out_and_the_response_says_so(client: openai.AsyncOpenAI) -> None:
    """As Codex sends them by default, beside its own in a group."""
    group: Any = {
        "type": "namespace",
        "name": "group_v1",
        "description": "d",
        "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}],
    }
    response = await client.responses.create(
        model="scripted", input="hi", tools=[group, {"type": "web_search"}], tool_choice="required"
    )
    calls = [item for item in response.output if item.type == "function_call"]
    assert {(call.name, call.namespace) for call in calls} == {("weather", "group_v1")}
    assert "web_search" in (response.metadata or {})[NOTE]


async def test_the_blocking_client(client: openai.AsyncOpenAI) -> None:
    def talk() -> tuple[str, str, str | None]:
        with openai.OpenAI(base_url=str(client.base_url), api_key="none", max_retries=0) as blocking:
            tools = blocking.chat.completions.create(model="scripted", messages=MESSAGES, tools=[CHAT_TOOL])
            call = (tools.choices[0].message.tool_calls or [])[0]
            assert call.type == "function"
            with blocking.responses.stream(model="scripted", input="Why?") as stream:
                text = stream.get_final_response().output_text
            parsed = blocking.chat.completions.parse(model="scripted", messages=MESSAGES, response_format=Weather)
            return call.function.arguments, text, parsed.choices[0].message.content

    arguments, text, parsed = await asyncio.to_thread(talk)
    assert (arguments, text, parsed) == (ARGUMENTS[0], TEXT, WEATHER_JSON)
    assert json.loads(arguments) == {"city": "Bern", "days": 2}
