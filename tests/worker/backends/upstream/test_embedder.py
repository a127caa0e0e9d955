"""Vectors of other servers: what they are asked, and what becomes of their answers."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.embed_messages import Embedding, EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, ModelNotFound, P2PNetError, WorkerFailed
from p2pnet.messages import Accepted, Finished, TextPrompt, TokenPrompt, Usage
from p2pnet.worker.backend import EmbedBackendEvent
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from p2pnet.worker.backends.upstream.vectors import INPUTS_AT_ONCE
from tests.scripted_server import Reply, ScriptedServer, json_reply, model_list, scripted

EMBED = "/v1/embeddings"
PROBED = json_reply({"data": [{"index": 0, "embedding": [1.0]}]})


def vectors(*found: list[float], prompt_tokens: int | None = 5) -> Reply:
    """As OpenAI's API gives them, the last first."""
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(found)]
    return json_reply({"data": data[::-1], "usage": {"prompt_tokens": prompt_tokens}})


@asynccontextmanager
async def serving(owner: str, *replies: Reply, **options: Any) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    """A backend in front of a server of that kind, whose model embeds and answers so."""
    routes: dict[str, Reply | list[Reply]] = {"/v1/models": model_list({"id": "m-embed", "owned_by": owner})}
    async with scripted(routes | {EMBED: [PROBED, *replies]}) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url, **options))
        try:
            yield backend, server
        finally:
            await backend.close()


def request(*inputs: str | tuple[int, ...], **fields: Any) -> EmbedRequest:
    prompts = tuple(TextPrompt(one) if isinstance(one, str) else TokenPrompt(one) for one in inputs)
    return EmbedRequest("r1", fields.pop("model", "m-embed"), prompts, **fields)


async def run(backend: UpstreamBackend, asked: EmbedRequest) -> list[EmbedBackendEvent]:
    return [event async for event in backend.embedder.embed(asked)]


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


async def test_texts_become_vectors() -> None:
    async with serving("vllm", vectors([0.25, 0.5], [1.0, -1.0])) as (backend, server):
        accepted, *rest = await run(backend, request("a", "some text"))
        assert accepted == Accepted(4, backend.embedder.models[0].digest)
        assert rest == [
            Embedding(0, vector(0.25, 0.5)),
            Embedding(1, vector(1.0, -1.0)),
            Finished("stop", Usage(5, 0)),
        ]
        assert server.asked(EMBED)[-1].json == {
            "model": "m-embed",
            "input": ["a", "some text"],
            "encoding_format": "float",
            "truncate_prompt_tokens": -1,
        }


async def test_what_is_too_long_is_not_cut_where_it_must_not_be() -> None:
    async with serving("vllm", vectors([1.0])) as (backend, server):
        await run(backend, request("a", truncate=False))
        assert "truncate_prompt_tokens" not in server.asked(EMBED)[-1].json


async def test_many_inputs_are_asked_for_in_parts_texts_and_ids_apart() -> None:
    texts = [str(number) for number in range(INPUTS_AT_ONCE + 1)]
    replies = [vectors(*[[1.0]] * INPUTS_AT_ONCE), vectors([2.0]), vectors([3.0], prompt_tokens=None)]
    async with serving("llamacpp", *replies) as (backend, server):
        events = await run(backend, request(*texts, (5, 6)))
        assert [event.index for event in events if isinstance(event, Embedding)] == list(range(INPUTS_AT_ONCE + 2))
        assert events[-1] == Finished("stop", Usage(INPUTS_AT_ONCE + 3, 0)), "one part was not counted: an estimate"
        assert [len(asked.json["input"]) for asked in server.asked(EMBED)[1:]] == [INPUTS_AT_ONCE, 1, 1]
        assert server.asked(EMBED)[-1].json["input"] == [[5, 6]]


async def test_dimensions_are_cut_here() -> None:
    async with serving("llamacpp", vectors([3.0, 4.0, 12.0])) as (backend, server):
        events = await run(backend, request("a", dimensions=2))
        assert events[1] == Embedding(0, vector(0.6, 0.8))
        assert "dimensions" not in server.asked(EMBED)[-1].json


TOO_LARGE = json_reply({"error": {"message": "input (600 tokens) is too large to process. increase"}}, 500)
FAILURES: list[tuple[str, Reply, type[P2PNetError]]] = [
    ("a text that is too long, llama.cpp", TOO_LARGE, ContextOverflow),
    ("a text that is empty", json_reply({"error": {"message": "input is empty"}}, 400), InvalidRequest),
    ("a server that fails", json_reply({}, 500), WorkerFailed),
    ("fewer vectors than inputs", vectors(), WorkerFailed),
    ("more vectors than inputs", vectors([1.0], [1.0]), WorkerFailed),
    ("an empty vector", vectors([]), WorkerFailed),
    ("a number beyond float32", vectors([1e300]), WorkerFailed),
    ("no JSON", Reply((b"<html>",)), WorkerFailed),
    ("an answer that breaks off", Reply((b'{"data"',), then="cut"), WorkerFailed),
]


@pytest.mark.parametrize(("reply", "error"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES])
async def test_failures(reply: Reply, error: type[P2PNetError]) -> None:
    async with serving("llamacpp", reply) as (backend, _):
        with pytest.raises(error):
            await run(backend, request("a"))


async def test_a_slow_server_has_taken_the_request() -> None:
    async with serving("llamacpp", Reply((b"{",), then="wait"), accept_s=0.01) as (backend, server):
        events = backend.embedder.embed(request("a"))
        assert isinstance(await anext(events), Accepted)
        await events.aclose()
        await server.left.wait()


async def test_another_model_is_none_of_its() -> None:
    async with serving("llamacpp") as (backend, _):
        for asked in (request("a", model="other"), request("a", digest="sha256:" + "0" * 64)):
            with pytest.raises(ModelNotFound):
                await run(backend, asked)


async def test_ollamas_vectors() -> None:
    shown = {"capabilities": ["embedding"], "model_info": {"bert.context_length": 512}}
    replies: dict[str, Reply | list[Reply]] = {
        "/api/version": json_reply({"version": "0.13.0"}),
        "/api/tags": json_reply({"models": [{"name": "nomic-embed-text:latest", "digest": "ab"}]}),
        "/api/ps": json_reply({"models": []}),
        "/api/show": json_reply(shown),
        "/api/embed": json_reply({"embeddings": [[0.5]], "prompt_eval_count": 3}),
    }
    async with scripted(replies) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url))
        (card,) = backend.embedder.models
        assert (backend.models, card.task, card.context_length) == ((), "embed", 512)
        events = await run(backend, request("a", model=card.id, truncate=False))
        assert events[1:] == [Embedding(0, vector(0.5)), Finished("stop", Usage(3, 0))]
        assert json.loads(server.asked("/api/embed")[0].body) == {
            "model": "nomic-embed-text:latest",
            "input": ["a"],
            "truncate": False,
        }
        await backend.close()
