"""langchain-openai, unmodified, through a gateway and a worker, real processes, to a scripted model."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.gateway.weather_model import FORECAST, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")  # it keeps connections for each address

NO_KEY = SecretStr("none")


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    days: int


def weather(city: str, days: int) -> str:
    """Looks the weather up."""
    return f"rain in {city} for {days} days"


@pytest.fixture
def base_url(swarm_url: str) -> str:
    return swarm_url + "/v1"


async def test_invoke_and_stream(base_url: str) -> None:
    chat = ChatOpenAI(model="scripted", base_url=base_url, api_key=NO_KEY, max_retries=0)
    whole = await chat.ainvoke("Why is the sky blue?")
    assert whole.content == TEXT
    assert isinstance(whole, AIMessage) and whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] == 11
    total: AIMessageChunk | None = None
    async for chunk in chat.astream("Why is the sky blue?"):
        assert isinstance(chunk, AIMessageChunk)
        total = chunk if total is None else total + chunk
    assert total is not None and total.content == TEXT


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output(base_url: str, method: str) -> None:
    chat = ChatOpenAI(model="scripted", base_url=base_url, api_key=NO_KEY, max_retries=0)
    structured = chat.with_structured_output(Weather, method=method)  # type: ignore[arg-type]
    assert await structured.ainvoke("How is the weather in Bern, as JSON?") == Weather(city="Bern", days=2)


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("with_responses", [False, True], ids=["chat", "responses"])
async def test_a_loop_of_tools(base_url: str, is_stream: bool, with_responses: bool) -> None:
    chat = ChatOpenAI(
        model="scripted",
        base_url=base_url,
        api_key=NO_KEY,
        max_retries=0,
        streaming=is_stream,
        use_responses_api=with_responses,
    ).bind_tools([weather])
    question = HumanMessage("How is the weather?")
    called = await chat.ainvoke([question])
    assert isinstance(called, AIMessage)
    assert [call["args"] for call in called.tool_calls] == [{"city": "Bern", "days": 2}, {"city": "Genève", "days": 1}]
    results = [ToolMessage("rain", tool_call_id=call["id"]) for call in called.tool_calls]
    answer = await chat.ainvoke([question, called, *results])
    assert answer.text == FORECAST
