"""litellm as a client, unmodified, through a gateway and a worker, real processes, to a scripted model."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
from pytest import MonkeyPatch

from p2pnet.messages import Accepted
from p2pnet.rerank_messages import Relevance
from tests.gateway.scripted_ranks import END, Scores
from tests.gateway.scripted_swarm import scripted_swarm
from tests.gateway.weather_model import CALLS, TEXT

pytestmark = pytest.mark.asyncio(loop_scope="module")  # it keeps connections for each address

MESSAGES = [{"role": "user", "content": "How is the weather?"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def litellm() -> Any:
    """Imported late, since it takes seconds, and told to fetch nothing."""
    with MonkeyPatch.context() as environment:
        environment.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        return litellm


@pytest.fixture
def asked(swarm_url: str) -> dict[str, Any]:
    return {
        "model": "openai/scripted",
        "api_base": swarm_url + "/v1",
        "api_key": "none",
        "num_retries": 0,
        "messages": MESSAGES,
    }


async def test_whole_and_streamed(litellm: Any, asked: dict[str, Any]) -> None:
    whole = await litellm.acompletion(**asked)
    assert whole.choices[0].message.content == TEXT
    stream = await litellm.acompletion(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    (usage,) = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert usage.total_tokens == whole.usage.total_tokens


async def test_calls_of_tools(litellm: Any, asked: dict[str, Any]) -> None:
    whole = await litellm.acompletion(**asked, tools=[TOOL])
    assert [call.function.arguments for call in whole.choices[0].message.tool_calls] == [c.arguments for c in CALLS]
    chunks = [chunk async for chunk in await litellm.acompletion(**asked, tools=[TOOL], stream=True)]
    rebuilt = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert [call.function.arguments for call in rebuilt.choices[0].message.tool_calls] == [c.arguments for c in CALLS]


async def test_an_error(litellm: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(litellm.NotFoundError):
        await litellm.acompletion(**{**asked, "model": "openai/unknown"})


@pytest.mark.parametrize("provider", ["ollama_chat", "anthropic"])
async def test_the_other_dialects(litellm: Any, swarm_url: str, provider: str) -> None:
    """litellm speaks them too, as another server's client."""
    asked = {"model": f"{provider}/scripted", "api_base": swarm_url, "api_key": "none", "messages": MESSAGES}
    whole = await litellm.acompletion(**asked)
    assert whole.choices[0].message.content == TEXT
    stream = await litellm.acompletion(**asked, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == TEXT


RANKING = [("jina_ai", "/v1/rerank", True), ("hosted_vllm", "/v1/rerank", True), ("cohere", "/v2/rerank", False)]


@pytest.mark.parametrize(("provider", "path", "has_documents"), RANKING)
async def test_ranks(litellm: Any, provider: str, path: str, has_documents: bool) -> None:
    model = Scores(repeat((Accepted(4), Relevance(1, 0.5), Relevance(0, 0.25), END)))
    async with scripted_swarm([], embedders=[[model]]) as url:
        asked = {"model": f"{provider}/ranks", "api_base": url + path, "api_key": "none"}
        ranked = await litellm.arerank(**asked, query="q", documents=["a", "b"])
        assert [(each["index"], each["relevance_score"]) for each in ranked.results] == [(1, 0.5), (0, 0.25)]
        texts = [each["document"]["text"] for each in ranked.results if "document" in each]
        assert texts == (["b", "a"] if has_documents else [])
        with pytest.raises(Exception, match="query: must not be empty"):
            await litellm.arerank(**asked, query="", documents=["a"])
