"""Hugging Face's text-embeddings-inference: how it is known, and what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.embed_messages import EmbedRequest
from p2pnet.errors import ContextOverflow, InvalidRequest, UsageError, WorkerFailed
from p2pnet.messages import Finished, TextPrompt, Usage
from p2pnet.rerank_messages import Relevance, RerankRequest
from p2pnet.worker.backends.upstream.address import Kind
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from p2pnet.worker.backends.upstream.tei import parse_info
from tests.scripted_server import Reply, ScriptedServer, json_reply, scripted

RANKS = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
EMBEDS = {"embedding": {"pooling": "cls"}}
CLASSIFIES = {"classifier": {"id2label": {}, "label2id": {}}}
REQUEST = RerankRequest("r1", "BAAI/bge-reranker-base", "q", ("a", "b"))


def info(model_type: Any, **fields: Any) -> Reply:
    told = {"model_id": "BAAI/bge-reranker-base", "model_sha": "ab", "model_dtype": "float16", "max_input_length": 512}
    return json_reply({**told, "model_type": model_type, "max_client_batch_size": 32, "version": "1.8.0", **fields})


@asynccontextmanager
async def serving(
    told: Reply, kind: Kind | None = None, **replies: Reply
) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    routes: dict[str, Reply | list[Reply]] = {"/info": told}
    routes |= {f"/{path.replace('_', '/')}": reply for path, reply in replies.items()}
    async with scripted(routes) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url, kind))
        try:
            yield backend, server
        finally:
            await backend.close()


@pytest.mark.parametrize("kind", [None, Kind.tei])
async def test_one_that_ranks(kind: Kind | None) -> None:
    ranked = json_reply([{"index": 1, "score": 0.75}, {"index": 0, "score": 0.25}])
    async with serving(info(RANKS), kind, rerank=ranked) as (backend, server):
        (card,) = backend.reranker.models
        assert (backend.models, backend.embedder.models) == ((), ())
        assert (card.id, card.features, card.dtype, card.context_length) == (REQUEST.model, ("rerank",), "float16", 512)
        _, *events = [event async for event in backend.reranker.rerank(REQUEST)]
        assert events == [Relevance(0, 0.25), Relevance(1, 0.75), Finished("stop", Usage(2, 0))]
        assert server.asked("/rerank")[-1].json == {"query": "q", "texts": ["a", "b"], "truncate": True}


async def test_one_that_embeds() -> None:
    vectors = json_reply({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 3}})
    async with serving(info(EMBEDS, served_model_name="bge"), v1_embeddings=vectors) as (backend, server):
        (card,) = backend.embedder.models
        assert (card.id, card.features, backend.reranker.models) == ("bge", ("dimensions", "text"), ())
        asked = EmbedRequest("r1", "bge", (TextPrompt("a"),))
        events = [event async for event in backend.embedder.embed(asked)]
        assert events[-1] == Finished("stop", Usage(3, 0))
        assert server.asked("/v1/embeddings")[-1].json["input"] == ["a"]


def refused(message: str) -> Reply:
    return json_reply({"error": message, "error_type": "Validation"}, 413)


FAILURES: dict[str, tuple[Reply, type[Exception]]] = {
    "a text that is too long": (refused("`inputs` must have less than 512 tokens. Given: 600"), ContextOverflow),
    "a text that is empty": (refused("`inputs` cannot be empty"), InvalidRequest),
    "a model that fails": (json_reply({"error": "no", "error_type": "Backend"}, 424), WorkerFailed),
    "a document twice": (json_reply([{"index": 0, "score": 1.0}] * 2), WorkerFailed),
    "no scores": (json_reply([]), WorkerFailed),
}


@pytest.mark.parametrize(("reply", "error"), FAILURES.values(), ids=FAILURES)
async def test_failures(reply: Reply, error: type[Exception]) -> None:
    async with serving(info(RANKS), rerank=reply) as (backend, _):
        with pytest.raises(error):
            _ = [event async for event in backend.reranker.rerank(REQUEST)]


async def test_one_that_sorts_into_classes_has_nothing_to_offer() -> None:
    async with serving(info(CLASSIFIES)) as (backend, _):
        assert not backend.names_there


@pytest.mark.parametrize("told", [json_reply({"name": "a shop"}), Reply((b"<html>",)), json_reply([])])
async def test_what_only_has_such_a_page_is_none(told: Reply) -> None:
    with pytest.raises(UsageError, match="nor like TEI"):
        async with serving(told):
            """Not reached."""


@pytest.mark.parametrize(("said", "length"), [(-1, 1), (8192, 8192), (1 << 40, 1 << 24)])
def test_what_it_says_of_itself_is_kept_in_bounds(said: int, length: int) -> None:
    (offer,) = parse_info(info(RANKS, max_input_length=said, model_dtype="x" * 999).chunks[0])
    assert (offer.card.context_length, offer.card.dtype) == (length, "unknown")
