"""Tokens over HTTP: /tokenize and /detokenize as vLLM has them, and counts that are those of the generation."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from gateway.surfaces.openai.tokens import detokenize_request, tokenize_request
from p2pnet.errors import FeatureMissing, InvalidRequest, ModelNotFound, WorkerFailed
from p2pnet.messages import Accepted, ChatPrompt, Finished, Message, TextDelta, TextPrompt, TokenPrompt, Usage
from p2pnet.tokenize_messages import Tokenized, TokenizeRequest
from p2pnet.worker.backend import TokenizeBackendEvent
from p2pnet.worker.backends.engine_backend import EngineOptions
from p2pnet.worker.backends.transformers import TransformersBackend
from p2pnet.worker.checkpoints.digest import HashCache
from p2pnet.worker.checkpoints.loading import find_folder, load_model
from tests.gateway.scripted_swarm import scripted_swarm
from tests.images import base64, png
from tests.llama_server import TEMPLATE
from tests.stories import card
from tests.worker.scripted import Scripted

Script = tuple[TokenizeBackendEvent | Exception, ...]

MESSAGES = [{"role": "user", "content": "What is p2pnet, 你好?"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "Tells the weather", "parameters": SCHEMA}


def parsed(**body: Any) -> TokenizeRequest:
    return tokenize_request(json.dumps({"model": "m", **body}).encode(), "r1")


PARSED: list[tuple[dict[str, Any], TokenizeRequest]] = [
    ({"prompt": "Hi"}, TokenizeRequest("r1", "m", TextPrompt("Hi"), "ids")),
    ({"prompt": "Hi", "return_token_strs": True}, TokenizeRequest("r1", "m", TextPrompt("Hi"), "names")),
    ({"prompt": "", "add_special_tokens": False}, TokenizeRequest("r1", "m", TextPrompt(""), "ids", False)),
    (
        {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True},
        TokenizeRequest("r1", "m", ChatPrompt((Message("user", "Hi"),)), "ids"),
    ),
]


@pytest.mark.parametrize(("body", "request_"), PARSED)
def test_a_body_is_a_request(body: dict[str, Any], request_: TokenizeRequest) -> None:
    assert parsed(**body) == request_


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": "a", "messages": MESSAGES}, "prompt"),
    ({"prompt": 1}, "prompt"),
    ({"prompt": "a", "model": None}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "nobody", "content": "a"}]}, "messages"),
    ({"messages": MESSAGES, "add_generation_prompt": False}, "add_generation_prompt"),
    ({"messages": MESSAGES, "continue_final_message": True}, "continue_final_message"),
    ({"messages": MESSAGES, "chat_template": "{{ messages }}"}, "chat_template"),
    ({"prompt": "a", "return_token_strs": "yes"}, "return_token_strs"),
]


@pytest.mark.parametrize(("body", "param"), WRONG)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**body)
    assert (caught.value.param or "").split("[")[0] == param


def test_ids_to_be_written_out() -> None:
    asked = detokenize_request(b'{"model": "m", "tokens": [72, 9]}', "r1")
    assert asked == TokenizeRequest("r1", "m", TokenPrompt((72, 9)))
    for tokens in ("[]", "[-1]", '["a"]', "[4294967296]"):
        with pytest.raises(InvalidRequest) as caught:
            detokenize_request(b'{"model": "m", "tokens": %s}' % tokens.encode(), "r1")
        assert (caught.value.param or "").startswith("tokens")
    with pytest.raises(ModelNotFound):
        detokenize_request(b'{"model": "no such model", "tokens": [1]}', "r1")


async def asked(url: str, path: str, **body: Any) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=url) as client:
        reply = await client.post(path, json={"model": "m", **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def test_a_count_is_the_usage_of_the_same_request(tmp_path: Path) -> None:
    """Given a worker with a real tokenizer and a template that knows tools, when the tokens of a request are counted,
    by each API that can, then there are as many as the same request has when it is generated."""
    torch.set_num_threads(1)
    loaded = load_model(find_folder("tiny"), "cpu", "float32", HashCache(tmp_path))
    loaded.tokenizer.chat_template = TEMPLATE
    backend = TransformersBackend(loaded, "m", lambda: 0, EngineOptions(kv_bytes=8 << 20))
    anthropic = {
        "system": "Be brief.",
        "messages": MESSAGES,
        "tools": [{"name": "weather", "description": "Tells the weather", "input_schema": SCHEMA}],
    }
    chat = {"messages": MESSAGES, "tools": [{"type": "function", "function": FUNCTION}]}
    response = {"input": "What?", "instructions": "Be brief.", "tools": [{"type": "function", **FUNCTION}]}
    async with scripted_swarm([backend]) as url:
        counted = await asked(url, "/v1/messages/count_tokens", **anthropic)
        usage = (await asked(url, "/v1/messages", max_tokens=1, **anthropic))["usage"]
        assert counted == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}

        told = await asked(url, "/tokenize", return_token_strs=True, **chat)
        usage = (await asked(url, "/v1/chat/completions", max_tokens=1, **chat))["usage"]
        assert told["count"] == usage["prompt_tokens"] == len(told["tokens"]) == len(told["token_strs"])
        assert told["max_model_len"] == backend.models[0].context_length

        counted = await asked(url, "/v1/responses/input_tokens", **response)
        usage = (await asked(url, "/v1/responses", max_output_tokens=1, **response))["usage"]
        assert counted == {"object": "response.input_tokens", "input_tokens": usage["input_tokens"]}

        told = await asked(url, "/tokenize", prompt="Once upon, 你好", add_special_tokens=False)
        assert (told["count"], told["token_strs"]) == (len(told["tokens"]), None)
        assert await asked(url, "/detokenize", tokens=told["tokens"]) == {"prompt": "Once upon, 你好"}


class Tokens(Scripted):
    """Tells tokens by the next of these scripts, which workers may share: whoever is asked first has the first."""

    def __init__(self, scripts: Iterator[Script]) -> None:
        super().__init__(models=(card("m", features=("chat", "text", "tokenize")),))
        self._scripts = scripts

    async def tokenize(self, asked: TokenizeRequest) -> AsyncGenerator[TokenizeBackendEvent, None]:
        for event in next(self._scripts):
            if isinstance(event, Exception):
                raise event
            yield event


GOOD = (Accepted(3), Tokenized((1, 2, 3)), Finished("stop", Usage(3, 0)))
BAD: dict[str, Script] = {
    "fails": (WorkerFailed("no"),),
    "fails half way": (Accepted(3), Tokenized((7,)), WorkerFailed("no")),
    "tells fewer than it counted": (Accepted(3), Tokenized((7, 8)), Finished("stop", Usage(3, 0))),
    "counts what cannot be": (Accepted(1 << 30), Finished("stop", Usage(1 << 30, 0))),
}


@pytest.mark.parametrize("script", BAD.values(), ids=BAD)
async def test_another_worker_is_asked_where_one_does_not_tell(script: Script) -> None:
    scripts = iter((script, GOOD))
    async with scripted_swarm([Tokens(scripts)], [Tokens(scripts)]) as url:
        assert (await asked(url, "/tokenize", prompt="Hi"))["tokens"] == [1, 2, 3]
    assert list(scripts) == []


async def test_where_no_worker_tells_tokens_one_is_generated_to_count_and_nothing_else_is_told() -> None:
    answer = (Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(5, 1)))
    plain = Scripted(*answer, models=(card("m", features=("chat", "text")),))
    async with scripted_swarm([plain]) as url:
        assert await asked(url, "/v1/messages/count_tokens", messages=MESSAGES) == {"input_tokens": 5}
        async with httpx.AsyncClient(base_url=url) as client:
            reply = await client.post("/tokenize", json={"model": "m", "prompt": "Hi"})
            gone = await client.post(
                "/tokenize", json={"model": "other", "prompt": "Hi"}, headers={"x-p2pnet-wait": "0"}
            )
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, FeatureMissing.code)
    assert gone.status_code == 404


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": base64(png(2, 3))}}
UNTOLD: dict[str, list[dict[str, Any]]] = {
    # The tokens of what the client has put into the answer's mouth are those of the prompt there.
    "an answer that was begun": [*MESSAGES, {"role": "assistant", "content": "It is"}],
    "an image": [{"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]}],
}


@pytest.mark.parametrize("messages", UNTOLD.values(), ids=UNTOLD)
async def test_what_tokenizers_do_not_tell_is_counted_by_going_on_with_it(messages: list[dict[str, Any]]) -> None:
    answer = (Accepted(1), TextDelta("a", (1,)), Finished("stop", Usage(8, 1)))

    class Both(Tokens):
        async def generate(self, request: Any) -> AsyncGenerator[Any, None]:
            for event in answer:
                yield event

    both = Both(iter(()))
    both.models = (card("m", features=("chat", "text", "tokenize", "resume_text", "images")),)
    async with scripted_swarm([both]) as url:
        assert await asked(url, "/v1/messages/count_tokens", messages=messages) == {"input_tokens": 8}
