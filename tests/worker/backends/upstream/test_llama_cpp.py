"""What a llama.cpp server tells of itself, and what is announced by it. This one answers as a real one was seen to;
`tests/e2e/test_llama_cpp.py` asks a real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from tests.scripted_server import Reply, ScriptedServer, json_reply, model_list, scripted

CHATML = "{% for message in messages %}<|im_start|>{{ message.role }}{% endfor %}"
CAPS = {"supports_tools": True, "supports_tool_calls": True}
PROPS: dict[str, Any] = {"chat_template": "{{ messages }}", "chat_template_caps": CAPS, "total_slots": 2}
BAD = json_reply({"error": {"code": 400, "message": "no"}}, 400)
TOO_MANY = json_reply({"error": {"code": 400, "message": "Field 'n': Value must be between 1 <= value <= 2"}}, 400)
NO_VECTORS = json_reply({"error": {"code": 501, "message": "This server does not support embeddings."}}, 501)
MARKS = {1: json_reply({"tokens": [1]}), 6: json_reply({"tokens": [1, 2, 3, 4, 5, 6]})}


@asynccontextmanager
async def llama(props: dict[str, Any], **replies: Reply) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    """A backend in front of a llama.cpp with these `/props`; `replies` by route, without what is before its name."""
    answers: dict[str, Reply | list[Reply]] = {
        "/v1/models": model_list({"id": "/models/m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx": 512}}),
        "/props": json_reply(PROPS | props),
        "/v1/chat/completions": BAD,
        "/v1/completions": replies.get("completions", TOO_MANY),
        "/v1/embeddings": replies.get("embeddings", NO_VECTORS),
        "/tokenize": replies.get("tokenize", MARKS[6]),
    }
    async with scripted(answers) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url))
        try:
            yield backend, server
        finally:
            await backend.close()


TOLD = [
    ("all that it can", {}, {}, {"chat", "tools", "n", "tokens", "resume_text"}, set()),
    ("ChatML of a model that was trained with it", {"chat_template": CHATML}, {"tokenize": MARKS[1]}, {"chat"}, set()),
    ("ChatML that stands in for a template", {"chat_template": CHATML}, {}, {"text", "tokens", "n"}, {"chat", "tools"}),
    ("ChatML, of a server that does not tokenize", {"chat_template": CHATML}, {"tokenize": BAD}, {"chat"}, set()),
    ("a template without tools", {"chat_template_caps": {}}, {}, {"chat", "resume_text"}, {"tools"}),
    ("a projector of images", {"modalities": {"vision": True, "audio": False}}, {}, {"chat", "images"}, set()),
    ("a model of texts", {"modalities": {"vision": False}}, {}, {"chat"}, {"images"}),
    ("a version that knows of no images", {}, {}, {"chat"}, {"images"}),
    ("a busy one that looks at no n", {}, {"completions": Reply((b"{",), then="cut")}, {"chat", "tokens"}, {"n"}),
    ("an old version", {"chat_template_caps": None}, {"completions": json_reply({})}, {"chat"}, {"n", "resume_text"}),
]


@pytest.mark.parametrize(
    ("props", "replies", "can", "cannot"), [case[1:] for case in TOLD], ids=[case[0] for case in TOLD]
)
async def test_what_is_announced(
    props: dict[str, Any], replies: dict[str, Reply], can: set[str], cannot: set[str]
) -> None:
    async with llama(props, **replies) as (backend, _):
        features = set(backend.models[0].features)
        assert can <= features
        assert not cannot & features


async def test_its_slots_are_the_workers() -> None:
    async with llama({"total_slots": 3}) as (backend, server):
        assert backend.load.slots == 3
        server.replies["/v1/models"] = [json_reply({}, 500)]
        await backend.refresh()
        assert backend.load.slots == 0, "it is away: nothing of it is known"


@pytest.mark.parametrize("said", [b'data: {"choices": []}\n\n', b"{}", b'{"data": []}', b""])
async def test_one_that_answers_whatever_is_posted_does_not_embed(said: bytes) -> None:
    async with llama({}, embeddings=Reply((said,))) as (backend, _):
        assert (len(backend.models), backend.embedder.models) == (1, ())


async def test_one_that_embeds_is_announced_for_nothing_else() -> None:
    vectors = json_reply({"data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}})
    async with llama({}, embeddings=vectors, completions=BAD) as (backend, server):
        assert backend.models == ()
        (card,) = backend.embedder.models
        assert (card.id, card.task, card.features) == ("m.gguf", "embed", ("dimensions", "text", "tokens"))
        (asked,) = server.asked("/v1/embeddings")
        assert json.loads(asked.body) == {"model": "/models/m.gguf", "input": "a"}
