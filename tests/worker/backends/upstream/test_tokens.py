"""Tokens of other servers: which are asked, how, and what becomes of their answers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from p2pnet.errors import FeatureMissing, InvalidRequest, ModelNotFound, P2PNetError, WorkerFailed
from p2pnet.messages import Accepted, ChatPrompt, Finished, Message, Prompt, TextPrompt, TokenPrompt, Tool, Usage
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.worker.backend import TokenizeBackendEvent
from p2pnet.worker.backends.upstream.backend import UpstreamBackend, UpstreamOptions
from tests.scripted_server import Reply, ScriptedServer, json_reply, model_list, scripted

BAD = json_reply({"error": {"message": "no"}}, 400)
PROPS = json_reply({"chat_template": "{{ m }}", "chat_template_caps": {"supports_tools": True}, "total_slots": 1})
ROUTES: dict[str, dict[str, Reply | list[Reply]]] = {
    "vllm": {},
    "llamacpp": {"/props": PROPS, "/v1/completions": BAD},
    "sglang": {},
    "somebody": {},
}
CHAT = ChatPrompt((Message("user", "Hi"),))
SAID = [{"role": "user", "content": "Hi"}]


@asynccontextmanager
async def serving(owner: str, **replies: Reply) -> AsyncIterator[tuple[UpstreamBackend, ScriptedServer]]:
    """A backend in front of a server of that kind; `replies` by the last word of a route, after what probes it."""
    routes: dict[str, Reply | list[Reply]] = {
        "/v1/models": model_list({"id": "m", "owned_by": owner}),
        "/v1/chat/completions": BAD,
        "/v1/completions": BAD,
        **ROUTES[owner],
    }
    for path in ("/tokenize", "/detokenize", "/apply-template"):
        name = path[1:].replace("-", "_")
        routes[path] = [BAD, BAD, replies.get(name, BAD)]
    async with scripted(routes) as server:
        backend = await UpstreamBackend.open(UpstreamOptions(server.url))
        try:
            yield backend, server
        finally:
            await backend.close()


def ask(prompt: Prompt, **fields: Any) -> TokenizeRequest:
    return TokenizeRequest("r1", fields.pop("model", "m"), prompt, **fields)


async def run(backend: UpstreamBackend, asked: TokenizeRequest) -> list[TokenizeBackendEvent]:
    return [event async for event in backend.tokenize(asked)]


@pytest.mark.parametrize(
    ("owner", "tells"), [("vllm", True), ("llamacpp", True), ("sglang", False), ("somebody", False)]
)
async def test_who_announces_it(owner: str, tells: bool) -> None:
    async with serving(owner) as (backend, _):
        assert ("tokenize" in backend.models[0].features) is tells
        if not tells:
            with pytest.raises(FeatureMissing):
                await run(backend, ask(TextPrompt("Hi")))


VLLM_TOKENS = json_reply({"count": 2, "max_model_len": 9, "tokens": [72, 9], "token_strs": ["H", "i"]})
LLAMA_TOKENS = json_reply({"tokens": [72, 9]})
LLAMA_PIECES = json_reply({"tokens": [{"id": 72, "piece": "H"}, {"id": 9, "piece": [228, 189]}]})
TOOL = Tool("look", "looks", '{"type": "object"}')
SHOWN = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}

VLLM_ASKED: dict[str, tuple[TokenizeRequest, dict[str, Any]]] = {
    "a text": (ask(TextPrompt("Hi")), {"prompt": "Hi", "add_special_tokens": True, "return_token_strs": False}),
    "plain": (
        ask(TextPrompt("Hi"), adds_special=False, wants="names"),
        {"prompt": "Hi", "add_special_tokens": False, "return_token_strs": True},
    ),
    "a chat": (ask(CHAT), {"messages": SAID, "add_special_tokens": False, "return_token_strs": False}),
}


@pytest.mark.parametrize(("request_", "body"), VLLM_ASKED.values(), ids=VLLM_ASKED)
async def test_vllm_is_asked(request_: TokenizeRequest, body: dict[str, Any]) -> None:
    async with serving("vllm", tokenize=VLLM_TOKENS) as (backend, server):
        accepted, *parts, finished = await run(backend, request_)
        assert accepted == Accepted(2, backend.models[0].digest)
        assert parts == ([Tokenized((72, 9), ("H", "i"))] if request_.wants == "names" else [])
        assert finished == Finished("stop", Usage(2, 0))
        assert server.asked("/tokenize")[-1].json == {"model": "m", **body}


async def test_llama_cpp_renders_messages_first_and_names_bytes() -> None:
    replies = {"tokenize": LLAMA_PIECES, "apply_template": json_reply({"prompt": "<user>Hi"})}
    async with serving("llamacpp", **replies) as (backend, server):
        events = await run(backend, ask(CHAT, wants="names"))
        assert events[1:-1] == [Tokenized((72, 9), ("H", "\ufffd"))]
        assert server.asked("/apply-template")[-1].json == {"model": "m", "messages": SAID}
        assert server.asked("/tokenize")[-1].json == {
            "model": "m",
            "content": "<user>Hi",
            "add_special": True,
            "parse_special": True,
            "with_pieces": True,
        }


async def test_ids_alone_of_llama_cpp() -> None:
    async with serving("llamacpp", tokenize=LLAMA_TOKENS) as (backend, server):
        events = await run(backend, ask(TextPrompt("Hi"), wants="ids", adds_special=False))
        assert events[1:-1] == [Tokenized((72, 9))]
        assert server.asked("/tokenize")[-1].json["add_special"] is False


@pytest.mark.parametrize(("owner", "field"), [("vllm", "prompt"), ("llamacpp", "content")])
async def test_ids_become_text(owner: str, field: str) -> None:
    async with serving(owner, detokenize=json_reply({field: "Hi"})) as (backend, server):
        events = await run(backend, ask(TokenPrompt((72, 9))))
        assert events[1:] == [Tokenized(text="Hi"), Finished("stop", Usage(2, 0))]
        assert server.asked("/detokenize")[-1].json == {"model": "m", "tokens": [72, 9]}


async def test_tools_are_shown_to_the_template() -> None:
    async with serving("vllm", tokenize=VLLM_TOKENS) as (backend, server):
        await run(backend, ask(ChatPrompt(CHAT.messages, (TOOL,))))
        assert server.asked("/tokenize")[-1].json["tools"] == [SHOWN]


FAILURES: dict[str, tuple[TokenizeRequest, Reply, type[P2PNetError]]] = {
    "a server that refuses": (ask(TextPrompt("Hi")), BAD, InvalidRequest),
    "a server that fails": (ask(TextPrompt("Hi")), json_reply({}, 500), WorkerFailed),
    "no JSON": (ask(TextPrompt("Hi")), Reply((b"<html>",)), WorkerFailed),
    "no tokens": (ask(TextPrompt("Hi")), json_reply({"count": 3}), WorkerFailed),
    "tokens that are none": (ask(TextPrompt("Hi")), json_reply({"tokens": ["a"]}), WorkerFailed),
    "no names": (ask(TextPrompt("Hi"), wants="names"), json_reply({"tokens": [1]}), WorkerFailed),
    "another model": (ask(TextPrompt("Hi"), model="other"), VLLM_TOKENS, ModelNotFound),
}


@pytest.mark.parametrize(("request_", "reply", "error"), FAILURES.values(), ids=FAILURES)
async def test_failures(request_: TokenizeRequest, reply: Reply, error: type[P2PNetError]) -> None:
    async with serving("vllm", tokenize=reply) as (backend, _):
        with pytest.raises(error):
            await run(backend, request_)
