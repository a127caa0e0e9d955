"""Workers in front of a real llama.cpp server, with a small model of Gemma's."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from p2pnet.answer_forms import JsonSchemaFormat
from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, FeatureMissing, WorkerFailed
from p2pnet.messages import (
    ChatPrompt,
    Finished,
    GenerateRequest,
    Message,
    Prompt,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenPrompt,
    Tool,
)
from p2pnet.records import ModelCard
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.worker.backend import Backend, BackendEvent, BackendLoad
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from tests.gateway.scripted_swarm import scripted_swarm
from tests.gguf_files import real_gguf
from tests.llama_server import SLOT_TOKENS, TEMPLATE, llama_server
from tests.processes import processes, wait_until

SLOTS = 2
MODEL = real_gguf().name
GREEDY = Sampling(temperature=0)
HELLO = ChatPrompt((Message("user", "hello"),))
EMOJI = "🦜🦚🦩🦢🦉 🦜🦚🦩🦢🦉 🦜🦚🦩🦢🦉 🦜"
"""The model goes on with birds, some of which are several tokens."""
PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"enum": [20, 30, 40]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
LOOK = Tool("look", "looks", '{"type":"object","properties":{"at":{"type":"integer"}},"required":["at"]}')


@pytest.fixture(scope="module")
def gemma_file() -> Path:
    return real_gguf()


@pytest.fixture(scope="module")
def llama_url(gemma_file: Path) -> Iterator[str]:
    with llama_server(gemma_file, SLOTS, TEMPLATE) as url:
        yield url


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[UpstreamBackend]:
    backend = await UpstreamBackend.open(UpstreamOptions(url))
    try:
        yield backend
    finally:
        await backend.close()


async def run(backend: Backend, prompt: Prompt, **fields: Any) -> list[BackendEvent]:
    request = GenerateRequest("r1", MODEL, prompt, sampling=fields.pop("sampling", GREEDY), **fields)
    return [event async for event in backend.generate(request)]


def deltas(events: list[BackendEvent]) -> list[TextDelta]:
    return [event for event in events if isinstance(event, TextDelta)]


def text_of(events: list[BackendEvent]) -> str:
    return "".join(delta.text for delta in deltas(events))


def end_of(events: list[BackendEvent]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


class BreaksOff:
    """A backend whose first answer breaks off after so many deltas. The other's owner closes it."""

    def __init__(self, inner: UpstreamBackend, after: int) -> None:
        self._inner = inner
        self._after = after
        self.asked: list[GenerateRequest] = []
        self.told: list[list[TextDelta]] = []

    @property
    def models(self) -> tuple[ModelCard, ...]:
        return self._inner.models

    @property
    def load(self) -> BackendLoad:
        return self._inner.load

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        self.asked.append(request)
        self.told.append([])
        async with aclosing(self._inner.generate(request)) as events:
            async for event in events:
                yield event
                if isinstance(event, TextDelta):
                    self.told[-1].append(event)
                    if len(self.asked) == 1 and len(self.told[0]) == self._after:
                        raise WorkerFailed("it breaks off")

    async def close(self) -> None:
        """Nothing of its own."""


async def test_what_it_announces_and_how_it_counts(llama_url: str) -> None:
    """One of its chunks may be several tokens, and it says how many."""
    async with serving(llama_url) as backend:
        (card,) = backend.models
        assert (card.id, card.context_length, backend.load.slots) == (MODEL, SLOT_TOKENS, SLOTS)
        assert {"chat", "text", "tokens", "tools", "n", "json_schema", "resume_text"} <= set(card.features)
        answer = await run(backend, TextPrompt(EMOJI), max_tokens=24)
        assert end_of(answer).usage.completion_tokens == 24 == sum(delta.tokens for delta in deltas(answer))
        assert len(deltas(answer)) < 24
        said = await run(backend, HELLO, max_tokens=4)
        assert end_of(said).usage.completion_tokens == sum(delta.tokens for delta in deltas(said)) == 4


async def test_its_tokens_are_those_that_it_counts(llama_url: str) -> None:
    """Of a text and of a chat with a tool; and ids become the text again."""
    async with serving(llama_url) as backend:
        for prompt in (TextPrompt(EMOJI), HELLO, ChatPrompt(HELLO.messages, (LOOK,))):
            told = [event async for event in backend.tokenize(TokenizeRequest("r2", MODEL, prompt, "names"))]
            (part,) = (event for event in told if isinstance(event, Tokenized))
            counted = end_of(await run(backend, prompt, max_tokens=1)).usage.prompt_tokens
            assert counted == len(part.token_ids) == len(part.names)
        plain = TokenizeRequest("r2", MODEL, TextPrompt(EMOJI), "ids", adds_special=False)
        _, part, _ = [event async for event in backend.tokenize(plain)]
        assert isinstance(part, Tokenized)
        back = [event async for event in backend.tokenize(TokenizeRequest("r3", MODEL, TokenPrompt(part.token_ids)))]
        assert back[1] == Tokenized(text=EMOJI)


async def test_a_resumed_answer_is_no_longer_than_was_asked_for(llama_url: str) -> None:
    """And its usage says how long it is."""
    async with serving(llama_url) as upstream:
        backend = BreaksOff(upstream, after=5)
        async with scripted_swarm([backend]) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = await client.completions.create(model=MODEL, prompt=EMOJI, max_tokens=24, temperature=0)
        first, second = backend.told
        assert len(first) < sum(delta.tokens for delta in first), "several tokens in one piece"
        assert answer.choices[0].text == "".join(delta.text for delta in (*first, *second))
        assert answer.usage is not None
        assert answer.usage.completion_tokens == sum(delta.tokens for delta in (*first, *second)) <= 24
        assert backend.asked[1].max_tokens == 24 - sum(delta.tokens for delta in first)


@pytest.mark.deep
async def test_requests_wait_where_the_queue_says_so(llama_url: str) -> None:
    """Given two slots and twelve requests, long enough to be looked at while they wait, the server has two at a time,
    and the gateway counts those that wait."""
    body = {"model": MODEL, "prompt": "Once upon", "max_tokens": 60, "temperature": 0}
    with processes("llama") as start:
        peer = start.bootstrap().ready.address
        worker = start.worker("--upstream", llama_url, peer=peer)
        gateway = start.gateway(peer=peer)
        url = gateway.ready.http
        worker.wait_ready()
        wait_until(lambda: bool(httpx.get(f"{url}/v1/models").json()["data"]), "the gateway lists the model")
        async with httpx.AsyncClient(timeout=60) as client:
            asking = [asyncio.ensure_future(client.post(f"{url}/v1/completions", json=body)) for _ in range(12)]
            waiting, busy = [], []
            while not all(asked.done() for asked in asking):
                waiting.append((await client.get(f"{url}/p2pnet/v1/overview")).json()["gateway"]["waiting"])
                slots = (await client.get(f"{llama_url}/slots")).json()
                busy.append(sum(slot["is_processing"] for slot in slots))
            answers = await asyncio.gather(*asking)
        assert [answer.status_code for answer in answers] == [200] * 12
        assert max(waiting) == 12 - SLOTS and max(busy) == SLOTS


@pytest.mark.deep
async def test_several_answers_ids_and_tools_are_passed_on(llama_url: str) -> None:
    async with serving(llama_url) as backend:
        two = await run(backend, HELLO, n=2, max_tokens=5, sampling=Sampling(seed=3))
        assert {delta.choice for delta in deltas(two)} == {0, 1}
        assert end_of(two).usage.completion_tokens == sum(delta.tokens for delta in deltas(two)) <= 10
        with pytest.raises(FeatureMissing):
            await run(backend, HELLO, n=SLOTS + 1)
        ids = await run(backend, TokenPrompt((2, 100, 200)), max_tokens=3, logprobs=1)
        assert end_of(ids).usage.prompt_tokens == 3
        assert [len(delta.logprobs) for delta in deltas(ids)] == [1, 1, 1]
        with pytest.raises(FeatureMissing):
            await run(backend, TokenPrompt((2,)), stop_token_ids=(1,))
        called = await run(backend, ChatPrompt((Message("user", "Look at 5."),), (LOOK,), "required"), max_tokens=80)
        pieces = [piece for delta in deltas(called) for piece in delta.tool_calls if piece.index == 0]
        assert pieces[0].name == "look" and "".join(piece.arguments for piece in pieces).startswith('{"at"')
        with pytest.raises(ContextOverflow):
            await run(backend, TextPrompt("word " * SLOT_TOKENS))


@pytest.mark.deep
@pytest.mark.parametrize("after", [0, 4])
async def test_json_that_breaks_off_is_whole_in_the_end(llama_url: str, after: int) -> None:
    """Begun anew, it has to say the same first: at the same temperature and seed it does."""
    async with serving(llama_url) as upstream:
        whole = text_of(await run(upstream, TextPrompt("A person: "), response_format=JsonSchemaFormat(PERSON)))
        assert set(json.loads(whole)) == {"name", "age"}
        backend = BreaksOff(upstream, after) if after else BreaksAtOnce(upstream)
        async with scripted_swarm([backend]) as url, openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = await client.completions.create(
                model=MODEL,
                prompt="A person: ",
                temperature=0,
                max_tokens=60,
                extra_body={
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "p", "schema": json.loads(PERSON)},
                    }
                },
            )
        assert answer.choices[0].text == whole
        assert len(backend.asked) == 2 and bool(backend.asked[1].resume_text) == bool(after)


class BreaksAtOnce(BreaksOff):
    """Its first answer breaks off before anything was said."""

    def __init__(self, inner: UpstreamBackend) -> None:
        super().__init__(inner, after=0)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[BackendEvent, None]:
        if not self.asked:
            self.asked.append(request)
            self.told.append([])
            raise WorkerFailed("it breaks off")
        async with aclosing(super().generate(request)) as events:
            async for event in events:
                yield event


@pytest.mark.deep
async def test_a_model_without_a_chat_template_does_not_chat(gemma_file: Path) -> None:
    """llama.cpp takes ChatML for it, which it never saw."""
    with llama_server(gemma_file) as url:
        async with serving(url) as backend:
            features = set(backend.models[0].features)
            assert "text" in features and not {"chat", "tools"} & features
            with pytest.raises(FeatureMissing):
                await run(backend, HELLO)


def likeness(one: bytes, other: bytes) -> float:
    """The cosine of two vectors of length 1."""
    return sum(a * b for a, b in zip(*(struct.unpack("<64f", vector) for vector in (one, other)), strict=True))


@pytest.mark.deep
async def test_one_that_embeds(gemma_file: Path) -> None:
    with llama_server(gemma_file, does="embed") as url:
        async with serving(url) as backend:
            (card,) = backend.embedder.models
            assert backend.models == () and card.task == "embed"
            inputs = (TextPrompt("a cat"), TextPrompt("a cat"), TokenPrompt((2, 100, 200)))
            events = [event async for event in backend.embedder.embed(EmbedRequest("r", MODEL, inputs, dimensions=64))]
            cat, same, ids = (event.vector for event in events if isinstance(event, Embedding))
            assert likeness(cat, cat) == pytest.approx(1, abs=1e-5)
            assert likeness(cat, same) > 0.99 > likeness(cat, ids)
            assert isinstance(events[-1], Finished) and events[-1].usage.prompt_tokens == 9
            with pytest.raises(ContextOverflow):
                await anext(backend.embedder.embed(EmbedRequest("r", MODEL, (TextPrompt("word " * SLOT_TOKENS),))))


@pytest.mark.deep
async def test_one_that_ranks(gemma_file: Path) -> None:
    """It gives vectors when asked for them, and is not announced for that. This model was never taught to rank: its
    scores say nothing."""
    with llama_server(gemma_file, does="rank") as url:
        async with serving(url) as backend:
            (card,) = backend.reranker.models
            assert (backend.models, backend.embedder.models, card.id) == ((), (), MODEL)
            asked = RerankRequest("r", MODEL, "a cat", tuple("abc" * 6))
            _, *ranked, end = [event async for event in backend.reranker.rerank(asked)]
            assert [event.index for event in ranked if isinstance(event, Relevance)] == list(range(18))
            assert isinstance(end, Finished) and end.usage.prompt_tokens > 0
            with pytest.raises(ContextOverflow):
                await anext(backend.reranker.rerank(RerankRequest("r", MODEL, "a cat", ("word " * SLOT_TOKENS,))))
