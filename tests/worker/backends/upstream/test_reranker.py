"""Ranks of other servers: who is known to rank, what they are asked, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.errors import ContextOverflow, InvalidRequest, ModelNotFound, P2PNetError, WorkerFailed
from p2pnet.messages import Accepted, Finished, Usage
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.worker.backend import RerankBackendEvent
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from p2pnet.worker.backends.upstream.ranks import DOCUMENTS_AT_ONCE
from tests.scripted_server import Reply, ScriptedServer, json_reply, model_list, scripted

RERANK, EMBED = "/v1/rerank", "/v1/embeddings"
PROBED = json_reply({"results": [{"index": 0, "relevance_score": 1.0}]})
VECTOR = json_reply({"data": [{"index": 0, "embedding": [1.0]}]})
NOT_HERE = json_reply({"error": {"code": 501, "message": "This server does not support reranking."}}, 501)
BAD = json_reply({"error": {"message": "no"}}, 400)
CHAT = {"/v1/chat/completions": BAD, "/v1/completions": BAD}


def ranked(*scores: float, **usage: int) -> Reply:
    """As Jina's API gives them, the last first."""
    results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
    return json_reply({"object": "list", "results": results[::-1], "usage": usage})


@asynccontextmanager
async def serving(
    owner: str, *replies: Reply, name: str = "ranks", more: dict[str, Reply] | None = None, accept_s: float = 10.0
) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    """A backend in front of a server of that kind, whose model answers so once it has been asked whether it can."""
    routes: dict[str, Reply | list[Reply]] = {"/v1/models": model_list({"id": name, "owned_by": owner})}
    async with scripted(routes | {RERANK: list(replies) or [PROBED]} | (more or {})) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url, accept_s=accept_s))
        try:
            yield backend, server
        finally:
            await backend.close()


def request(*documents: str, **fields: Any) -> RerankRequest:
    return RerankRequest("r1", fields.pop("model", "ranks"), fields.pop("query", "q"), documents, **fields)


async def run(backend: UpstreamBackend, asked: RerankRequest) -> list[RerankBackendEvent]:
    return [event async for event in backend.reranker.rerank(asked)]


KNOWN: dict[str, tuple[str, str, Reply, dict[str, Reply], str]] = {
    "llama.cpp": ("llamacpp", "m", PROBED, {}, "rank"),
    "llama.cpp, which gives vectors too": ("llamacpp", "m", PROBED, {EMBED: VECTOR}, "rank"),
    "llama.cpp that embeds": ("llamacpp", "m", NOT_HERE, {EMBED: VECTOR}, "embed"),
    "llama.cpp that generates": ("llamacpp", "m", NOT_HERE, CHAT, "generate"),
    "vLLM": ("vllm", "m", PROBED, {EMBED: BAD}, "rank"),
    "vLLM that embeds, and ranks by that": ("vllm", "m", PROBED, {EMBED: VECTOR}, "embed"),
    "SGLang": ("sglang", "m", json_reply([{"index": 0, "score": 1.0, "document": "a"}]), {}, "rank"),
    "one that says anything to anybody": ("vllm", "m", json_reply({"choices": []}), CHAT, "generate"),
    "one of many, by its name": ("somebody", "bge-reranker-v2", BAD, CHAT, "rank"),
    "one of many, by its name, and no route": ("somebody", "bge-reranker-v2", json_reply({}, 404), CHAT, ""),
}


@pytest.mark.parametrize(("owner", "name", "reply", "more", "does"), KNOWN.values(), ids=KNOWN)
async def test_who_ranks(owner: str, name: str, reply: Reply, more: dict[str, Reply], does: str) -> None:
    async with serving(owner, reply, name=name, more=more) as (backend, _):
        tasks = {"generate": backend.models, "embed": backend.embedder.models, "rank": backend.reranker.models}
        assert {task for task, cards in tasks.items() if cards} == ({does} if does else set())
        for card in backend.reranker.models:
            assert (card.task, card.features, card.asked_for) == ("embed", ("rerank",), ((name, "rerank"),))


async def test_documents_are_ranked() -> None:
    reply = ranked(0.25, -3.5, prompt_tokens=7, total_tokens=7)
    async with serving("llamacpp", PROBED, reply) as (backend, server):
        accepted, *rest = await run(backend, request("some document", "b"))
        assert accepted == Accepted(5, backend.reranker.models[0].digest)
        assert rest == [Relevance(0, 0.25), Relevance(1, -3.5), Finished("stop", Usage(7, 0))]
        assert server.asked(RERANK)[-1].json == {"model": "ranks", "query": "q", "documents": ["some document", "b"]}


async def test_vllm_is_told_to_cut_what_is_too_long() -> None:
    async with serving("vllm", PROBED, ranked(0.5, total_tokens=3)) as (backend, server):
        assert (await run(backend, request("a")))[-1] == Finished("stop", Usage(3, 0))
        assert server.asked(RERANK)[-1].json["truncate_prompt_tokens"] == -1


async def test_many_documents_are_ranked_in_parts() -> None:
    replies = ranked(*[0.5] * DOCUMENTS_AT_ONCE, prompt_tokens=40), ranked(0.75)
    async with serving("llamacpp", PROBED, *replies) as (backend, server):
        events = await run(backend, request(*["a"] * (DOCUMENTS_AT_ONCE + 1)))
        assert events[1:-1] == [*(Relevance(index, 0.5) for index in range(DOCUMENTS_AT_ONCE)), Relevance(16, 0.75)]
        assert events[-1] == Finished("stop", Usage(DOCUMENTS_AT_ONCE + 1, 0)), "one part was not counted: an estimate"
        assert [len(asked.json["documents"]) for asked in server.asked(RERANK)[1:]] == [DOCUMENTS_AT_ONCE, 1]


def results(*each: tuple[int, Any]) -> Reply:
    return json_reply({"results": [{"index": index, "relevance_score": score} for index, score in each]})


TOO_LONG = "request (600 tokens) exceeds the available context size (512 tokens), try increasing it"
FAILURES: dict[str, tuple[Reply, type[P2PNetError]]] = {
    "a pair that is too long": (json_reply({"error": {"message": TOO_LONG}}, 400), ContextOverflow),
    "a server that refuses": (BAD, InvalidRequest),
    "a server that fails": (json_reply({}, 500), WorkerFailed),
    "a document twice": (results((0, 1.0), (0, 1.0)), WorkerFailed),
    "a document that there is not": (results((0, 1.0), (2, 1.0)), WorkerFailed),
    "a document before the first": (results((0, 1.0), (-1, 1.0)), WorkerFailed),
    "too few": (results((0, 1.0)), WorkerFailed),
    "too many": (results((0, 1.0), (1, 1.0), (1, 1.0)), WorkerFailed),
    "no number": (results((0, 1.0), (1, float("nan"))), WorkerFailed),
    "no end": (results((0, 1.0), (1, float("inf"))), WorkerFailed),
    "beyond all numbers": (
        Reply((b'{"results": [{"index": 0, "score": 1e999}, {"index": 1, "score": 1}]}',)),
        WorkerFailed,
    ),
    "a word": (results((0, 1.0), (1, "good")), WorkerFailed),
    "no score": (results((0, 1.0), (1, None)), WorkerFailed),
    "no JSON": (Reply((b"<html>",)), WorkerFailed),
    "an answer that breaks off": (Reply((b'{"results"',), then="cut"), WorkerFailed),
}


@pytest.mark.parametrize(("reply", "error"), FAILURES.values(), ids=FAILURES)
async def test_failures(reply: Reply, error: type[P2PNetError]) -> None:
    async with serving("llamacpp", PROBED, reply) as (backend, _):
        with pytest.raises(error):
            await run(backend, request("a", "b"))


@pytest.mark.parametrize("tokens", [-1, 1 << 40])
async def test_a_count_that_cannot_be_is_none(tokens: int) -> None:
    async with serving("llamacpp", PROBED, ranked(0.5, prompt_tokens=tokens)) as (backend, _):
        assert (await run(backend, request("a")))[-1] == Finished("stop", Usage(1, 0))


async def test_a_slow_server_has_taken_the_request() -> None:
    async with serving("llamacpp", PROBED, Reply((b"{",), then="wait"), accept_s=0.01) as (backend, server):
        events = backend.reranker.rerank(request("a"))
        assert isinstance(await anext(events), Accepted)
        await events.aclose()
        await server.left.wait()


async def test_another_model_is_none_of_its() -> None:
    async with serving("llamacpp") as (backend, _):
        for asked in (request("a", model="other"), request("a", digest="sha256:" + "0" * 64)):
            with pytest.raises(ModelNotFound):
                await run(backend, asked)
