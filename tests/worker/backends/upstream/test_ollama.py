"""The upstream backend against a test server that behaves as Ollama does (`tests/ollama_server.py`)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.errors import Busy, ContextOverflow, FeatureMissing, ModelNotFound, WorkerFailed
from p2pnet.messages import (
    Accepted,
    ChatPrompt,
    Finished,
    GenerateRequest,
    ImagePart,
    Message,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.worker.backend import Backend, BackendEvent
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from tests.images import base64, png
from tests.ollama_server import Model, State, ollama

LLAMA = Model("llama3.2:3b", digest="1" * 64, capabilities=("completion", "tools"), trained_context=131072)
QWEN = Model("qwen3:latest", digest="2" * 64, capabilities=("completion", "thinking"), parameters="num_ctx 8")
EMBED = Model("nomic-embed-text:latest", capabilities=("embedding",))
CLOUD = Model("gpt-oss:120b-cloud", remote_host="https://ollama.com")
HELLO = ChatPrompt((Message("system", "be kind"), Message("user", "hello my dear friend")))
WORDS = [TextDelta(word, tokens=told) for word, told in (("hello", 2), (" my", 1), (" dear", 2), (" friend", 2))]
"""It counts at the end alone, so what the words are taken for is cautious."""


@asynccontextmanager
async def serving(*models: Model, **options: Any) -> AsyncIterator[tuple[UpstreamBackend, State]]:
    async with ollama(*(models or (LLAMA,))) as state:
        backend = await UpstreamBackend.open(UpstreamOptions(state.url, **options))
        try:
            yield backend, state
        finally:
            await backend.close()


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", fields.pop("model", LLAMA.name), fields.pop("prompt", HELLO), **fields)


async def run(backend: Backend, asked: GenerateRequest) -> list[BackendEvent]:
    return [event async for event in backend.generate(asked)]


async def test_its_models_are_recognised_and_described() -> None:
    async with serving(LLAMA, EMBED, QWEN, CLOUD) as (backend, _):
        llama, qwen = backend.models
        assert (llama.id, llama.context_length, llama.quantization) == (LLAMA.name, 4096, "Q4_K_M")
        assert llama.features == ("chat", "json", "json_schema", "logprobs", "text", "tools")
        assert (qwen.id, qwen.context_length) == (QWEN.name, 8)
        assert "tools" not in qwen.features
        assert llama.digest != qwen.digest


async def test_another_digest_is_another_model() -> None:
    async with serving() as (backend, state):
        (before,) = backend.models
        state.models[LLAMA.name] = Model(LLAMA.name, digest="3" * 64)
        await backend.refresh()
        (after,) = backend.models
        assert before.digest != after.digest
        with pytest.raises(ModelNotFound, match="another digest"):
            await run(backend, request(digest=before.digest))


async def test_models_come_and_go_and_are_shown_once() -> None:
    async with serving(LLAMA) as (backend, state):
        state.models[QWEN.name] = QWEN
        await backend.refresh()
        assert [card.id for card in backend.models] == [LLAMA.name, QWEN.name]
        del state.models[LLAMA.name]
        await backend.refresh()
        assert [card.id for card in backend.models] == [QWEN.name]
        assert state.shows == [LLAMA.name, QWEN.name]


async def test_the_context_is_the_one_it_serves() -> None:
    """What a loaded model really has is known, and stays known when it is unloaded."""
    async with serving() as (backend, state):
        state.loaded[LLAMA.name] = 32768
        await backend.refresh()
        assert backend.models[0].context_length == 32768
        state.loaded.clear()
        await backend.refresh()
        assert backend.models[0].context_length == 32768


async def test_a_chat() -> None:
    async with serving() as (backend, state):
        accepted, *rest = await run(backend, request(sampling=Sampling(seed=5, temperature=0.25)))
        assert isinstance(accepted, Accepted) and accepted.digest == backend.models[0].digest
        assert rest == [*WORDS, Finished("stop", Usage(6, 4))]
        options = state.requests[0]["options"]
        assert (options["seed"], options["temperature"], options["top_k"], options["repeat_penalty"]) == (5, 0.25, 0, 1)


async def test_a_model_that_sees_is_shown_the_image() -> None:
    seeing = Model("llava:7b", capabilities=("completion", "vision"))
    prompt = ChatPrompt((Message("user", "what?", images=(ImagePart(png()),)),))
    async with serving(LLAMA, seeing) as (backend, state):
        assert ["images" in card.features for card in backend.models] == [False, True]
        await run(backend, request(model=seeing.name, prompt=prompt))
        assert state.requests[0]["messages"] == [{"role": "user", "content": "what?", "images": [base64(png())]}]
        with pytest.raises(FeatureMissing, match="cannot read images here"):
            await run(backend, request(prompt=prompt))
        assert len(state.requests) == 1


CASES = [
    ("max_tokens", request(max_tokens=2), [*WORDS[:2], Finished("length", Usage(6, 2))]),
    ("a stop string", request(stop=("dear",)), [*WORDS[:2], TextDelta(" ", tokens=1), Finished("stop", Usage(6, 3))]),
    (
        "a text",
        request(prompt=TextPrompt("a b")),
        [TextDelta("a", tokens=1), TextDelta(" b", tokens=1), Finished("stop", Usage(2, 2))],
    ),
    (
        "a tool",
        request(prompt=ChatPrompt((Message("user", "look"),), (Tool("see"), Tool("hear")))),
        [
            TextDelta(tool_calls=(ToolCallDelta(0, "call_0", "see", '{"said":"look"}'),), tokens=5),
            TextDelta(tool_calls=(ToolCallDelta(1, "call_1", "hear", '{"said":"look"}'),), tokens=5),
            Finished("tool_calls", Usage(1, 2)),
        ],
    ),
    (
        "a tool's answer",
        request(
            prompt=ChatPrompt(
                (
                    Message("assistant", "", (ToolCall("c1", "see", '{"a":1}'),)),
                    Message("tool", "nothing", tool_call_id="c1"),
                )
            )
        ),
        [TextDelta("nothing", tokens=3), Finished("stop", Usage(1, 1))],
    ),
    (
        "logprobs",
        request(prompt=TextPrompt("a"), logprobs=1),
        [
            TextDelta("a", logprobs=(TokenLogprob(0, b"a", -0.25, (TopLogprob(0, b"a", -0.25),)),), tokens=1),
            Finished("stop", Usage(1, 1)),
        ],
    ),
    (
        "thinking",
        request(model=QWEN.name, prompt=TextPrompt("a")),
        [TextDelta("<think>\nhm", tokens=1), TextDelta("\n</think>\n\na", tokens=1), Finished("stop", Usage(1, 2))],
    ),
    (
        "the context is full",
        request(model=QWEN.name, prompt=TextPrompt("a b c d e f")),
        [
            TextDelta("<think>\nhm", tokens=1),
            TextDelta("\n</think>\n\na", tokens=1),
            TextDelta(" b", tokens=1),
            Finished("length", Usage(6, 3)),
        ],
    ),
]


@pytest.mark.parametrize(("asked", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_cases(asked: GenerateRequest, expected: list[BackendEvent]) -> None:
    async with serving(LLAMA, QWEN) as (backend, _):
        assert (await run(backend, asked))[1:] == expected


@pytest.mark.parametrize("form", [JsonFormat(), JsonSchemaFormat('{"type":"object"}')])
@pytest.mark.parametrize("model", [LLAMA, QWEN])
async def test_json_is_json_from_its_first_character_on(form: JsonFormat | JsonSchemaFormat, model: Model) -> None:
    asked = request(model=model.name, prompt=TextPrompt("a"), response_format=form)
    async with serving(LLAMA, QWEN) as (backend, _):
        deltas = [event for event in await run(backend, asked) if isinstance(event, TextDelta)]
        assert json.loads("".join(delta.text for delta in deltas)) == {"said": "a"}


async def test_its_refusals() -> None:
    async with serving(LLAMA, QWEN) as (backend, state):
        with pytest.raises(ContextOverflow, match="exceeds the context length"):
            await run(backend, request(model=QWEN.name, prompt=TextPrompt("a b c d e f g h i")))
        state.is_full = True
        with pytest.raises(Busy):
            await run(backend, request())
        state.is_full = False
        del state.models[LLAMA.name]
        with pytest.raises(ModelNotFound):
            await run(backend, request())


async def test_a_model_that_lost_its_tools_is_announced_without_them() -> None:
    """The same digest with fewer capabilities: what it shows is asked once only, but it says so when asked to call."""
    with_tools = request(prompt=ChatPrompt((Message("user", "look"),), (Tool("see"),)))
    async with serving() as (backend, state):
        state.models[LLAMA.name] = Model(LLAMA.name, digest=LLAMA.digest)
        with pytest.raises(FeatureMissing):
            await run(backend, with_tools)
        assert "tools" not in backend.models[0].features


async def test_an_error_in_mid_answer() -> None:
    async with serving() as (backend, state):
        state.fails_after_tokens = 2
        seen: list[BackendEvent] = []
        with pytest.raises(WorkerFailed):
            async for event in backend.generate(request()):
                seen.append(event)
        assert seen[1:] == WORDS[:2]


async def test_hanging_up_stops_it() -> None:
    async with serving() as (backend, state):
        state.waits_after_tokens = 2
        events = backend.generate(request())
        assert [await anext(events) for _ in range(3)][1:] == WORDS[:2]
        await events.aclose()
        await asyncio.wait_for(state.left.wait(), 5)


async def test_many_at_once() -> None:
    async with serving() as (backend, _):
        answers = await asyncio.gather(*(run(backend, request()) for _ in range(20)))
        assert all(answer[1:] == [*WORDS, Finished("stop", Usage(6, 4))] for answer in answers)


async def test_the_kind_may_be_named() -> None:
    async with serving(kind=Kind.ollama) as (backend, _):
        assert msgspec.structs.asdict(backend.models[0])["id"] == LLAMA.name
