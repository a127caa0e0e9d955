"""FauxPilot's API as editors' plugins use it: plain HTTP, against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app import create_app
from gateway.interface import Routed
from gateway.surfaces.fauxpilot.render import ChunkRenderer, ResponseHead
from gateway.surfaces.fauxpilot.schema import completion_request, parse_completion
from p2pnet.errors import Busy, FeatureMissing, InvalidRequest, P2PNetError, PeerLost
from p2pnet.features import FIM
from p2pnet.messages import (
    Accepted,
    Finished,
    GenerateRequest,
    Sampling,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from p2pnet.worker.backends.synthetic.echo import EchoBackend
from tests.depth import examples
from tests.gateway.fake_generate import FakeGenerate, Serve, answer, service
from tests.gateway.scripted_swarm import scripted_swarm

COMPLETIONS = "/v1/engines/codegen/completions"
PROMPT = "def add(a, b):"
Connect = Callable[[FakeGenerate], Awaitable[httpx.AsyncClient]]


@pytest.fixture
async def connect(serve: Serve) -> AsyncIterator[Connect]:
    clients: list[httpx.AsyncClient] = []

    async def start(generate: FakeGenerate) -> httpx.AsyncClient:
        client = httpx.AsyncClient(base_url=(await serve(generate)).url)
        clients.append(client)
        return client

    yield start
    for client in clients:
        await client.aclose()


def parse(**fields: Any) -> GenerateRequest:
    body = parse_completion(json.dumps({"prompt": PROMPT, **fields}).encode())
    return completion_request(body, "tiny", "r1", lambda: 42)


def asked(**fields: Any) -> GenerateRequest:
    """What a body with nothing but a prompt becomes, with these fields."""
    sampling = {"seed": 42, "temperature": 0.6, **fields.pop("sampling", {})}
    return GenerateRequest(
        "r1", "tiny", fields.pop("prompt", TextPrompt(PROMPT)), Sampling(**sampling), **{"max_tokens": 16, **fields}
    )


PARSED: list[tuple[dict[str, Any], GenerateRequest]] = [
    ({}, asked()),
    ({"max_tokens": None, "temperature": None, "top_p": None, "n": None, "stop": None, "echo": None}, asked()),
    ({"prompt": ["def"]}, asked(prompt=TextPrompt("def"))),
    ({"suffix": "\nadd(1, 2)"}, asked(prompt=TextPrompt(PROMPT, "\nadd(1, 2)"))),
    ({"suffix": ""}, asked()),
    ({"max_tokens": 500, "n": 3, "best_of": 3, "echo": True}, asked(max_tokens=500, n=3, echo=True)),
    ({"stop": "\n"}, asked(stop=("\n",))),
    ({"stop": ["\n", "def"]}, asked(stop=("\n", "def"))),
    ({"temperature": 0, "top_p": 0.5}, asked(sampling={"temperature": 0, "top_p": 0.5})),
    ({"top_p": 0}, asked(sampling={"temperature": 0.0})),
    (
        {"presence_penalty": 1, "frequency_penalty": 0.5},
        asked(sampling={"presence_penalty": 1, "frequency_penalty": 0.5}),
    ),
    ({"logprobs": 2}, asked(logprobs=2)),
    ({"logprobs": 0}, asked()),
    ({"model": "fastertransformer", "user": "u", "logit_bias": {"50256": -100}, "extra": {"language": "c"}}, asked()),
]


@pytest.mark.parametrize(("fields", "expected"), PARSED, ids=lambda value: str(value)[:60])
def test_bodies_that_are_served(fields: dict[str, Any], expected: GenerateRequest) -> None:
    assert parse(**fields) == expected


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "prompt: input should be a valid string"),
    ({"prompt": ["a", "b"]}, "prompt", "prompt: one text"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens: expected `int` >= 1"),
    ({"temperature": -1}, "temperature", "temperature: expected `float` >= 0"),
    ({"n": 129}, "n", "n: expected `int` <= 128"),
    ({"best_of": 2}, "best_of", "best_of: only as many as n"),
    ({"stop": ["a"] * 17}, "stop", "stop: expected `array` of length <= 16"),
    ({"logprobs": 21}, "logprobs", "logprobs: expected `int` <= 20"),
]


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_bodies_that_are_refused_name_the_field(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(**fields)
    assert refused.value.message.startswith(message)
    assert refused.value.param == param


async def test_a_completion(connect: Connect) -> None:
    generate = FakeGenerate(Routed("peer", 1, 0), *answer(" return", " a"))
    http = await connect(generate)
    reply = await http.post(COMPLETIONS, json={"prompt": PROMPT})
    assert reply.json() == {
        "id": "cmpl-0123",
        "model": "tiny",
        "object": "text_completion",
        "created": 1_700_000_100,
        "choices": [{"text": " return a", "index": 0, "finish_reason": "stop", "logprobs": None}],
        "usage": {"completion_tokens": 2, "prompt_tokens": 7, "total_tokens": 9},
    }
    assert reply.headers["x-p2pnet-worker"] == "peer"


@pytest.mark.parametrize("stream", [False, None])
async def test_no_stream_is_no_stream(connect: Connect, stream: bool | None) -> None:
    http = await connect(FakeGenerate(*answer("a")))
    reply = await http.post(COMPLETIONS, json={"prompt": PROMPT, "stream": stream})
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["choices"][0]["text"] == "a"


async def test_tokens_stream_as_they_come(connect: Connect) -> None:
    gate = asyncio.Event()
    accepted, first, *rest = answer(" return", " a", reason="length")
    http = await connect(FakeGenerate(accepted, first, gate, *rest))
    async with http.stream("POST", COMPLETIONS, json={"prompt": PROMPT, "stream": True}) as reply:
        lines = reply.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))["choices"][0]["text"] == " return"
        gate.set()
        chunks = [line.removeprefix("data: ") async for line in lines if line]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert [json.loads(chunk)["choices"][0]["text"] for chunk in chunks[:-1]] == [" a", ""]
    assert json.loads(chunks[-2])["choices"][0]["finish_reason"] == "length"
    assert json.loads(chunks[-2])["usage"]["total_tokens"] == 9
    assert chunks[-1] == "[DONE]"


ENGINES = [("codegen", "tiny"), ("copilot-codex", "tiny"), ("org/large", "org/large"), ("tiny:latest", "tiny:latest")]


@pytest.mark.parametrize(("engine", "model"), ENGINES)
async def test_engines_of_codexs_time_and_models_will_do(connect: Connect, engine: str, model: str) -> None:
    generate = FakeGenerate(*answer("a"))
    http = await connect(generate)
    reply = await http.post(f"/v1/engines/{engine}/completions", json={"prompt": PROMPT})
    assert (reply.json()["model"], generate.requests[0].model) == (model, model)


async def test_any_other_engine_is_not_found(connect: Connect) -> None:
    http = await connect(FakeGenerate())
    reply = await http.post("/v1/engines/anything at all/completions", json={"prompt": PROMPT})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")
    assert "--alias" in reply.json()["error"]["message"]


async def test_engines(connect: Connect) -> None:
    http = await connect(FakeGenerate())
    engines = (await http.get("/v1/engines")).json()
    assert engines["data"][1] == {"id": "org/large", "object": "engine", "owner": "p2pnet", "ready": True}
    assert (await http.get("/v1/engines/org/large")).json() == engines["data"][1]
    missing = await http.get("/v1/engines/unheard-of")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_token_for_copilots_plugin(connect: Connect) -> None:
    http = await connect(FakeGenerate())
    reply = await http.get("/copilot_internal/v2/token")
    assert reply.json() == {"token": "1", "expires_at": 2_600_000_000, "refresh_in": 900}


async def test_errors_have_openais_shape(connect: Connect) -> None:
    generate = FakeGenerate()
    failures = iter([FeatureMissing("no gaps here", "suffix"), Busy("full")])
    generate.script = lambda _: [next(failures)]
    http = await connect(generate)
    refused = await http.post(COMPLETIONS, json={"prompt": PROMPT, "suffix": "x"})
    busy = await http.post(COMPLETIONS, json={"prompt": PROMPT, "stream": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "suffix")
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")


async def test_a_stream_that_breaks_has_no_end(connect: Connect) -> None:
    http = await connect(FakeGenerate(Accepted(7), TextDelta("a"), PeerLost("gone")))
    reply = await http.post(COMPLETIONS, json={"prompt": PROMPT, "stream": True})
    assert json.loads(reply.text.split("\n\n")[1].removeprefix("data: "))["error"]["code"] == "peer_lost"
    assert "[DONE]" not in reply.text


async def test_no_model_at_all_is_a_matter_of_time() -> None:
    nobody = replace(service(FakeGenerate()), list_models=list)
    transport = httpx.ASGITransport(create_app(nobody))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
        reply = await http.post(COMPLETIONS, json={"prompt": PROMPT})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_worker")


async def test_a_whole_gateway_and_a_worker_that_fills_no_gaps() -> None:
    async with scripted_swarm([EchoBackend()]) as url, httpx.AsyncClient(base_url=url) as http:
        body = {"prompt": "one two three", "stop": [" three"], "stream": True}
        streamed = await http.post(COMPLETIONS, json=body)
        refused = await http.post(COMPLETIONS, json={**body, "suffix": "four"})
    chunks = [json.loads(chunk.removeprefix("data: ")) for chunk in streamed.text.split("\n\n")[:-2]]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one two"
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "suffix")
    assert FIM in refused.json()["error"]["message"]


async def test_openais_client_as_it_was_used_with_engines(serve: Serve) -> None:
    """The engine is a part of the URL, as Azure's still is."""
    server = await serve(FakeGenerate(*answer(" return", " a")))
    base_url = server.url + "/v1/engines/copilot-codex"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        whole = await client.completions.create(model="copilot-codex", prompt=PROMPT)
        stream = await client.completions.create(model="copilot-codex", prompt=PROMPT, stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]
    assert whole.choices[0].text == "".join(texts) == " return a"


TOKENS = (
    TokenLogprob(1, b" a", -0.5, (TopLogprob(1, b" a", -0.5), TopLogprob(2, b" b", -1.5))),
    TokenLogprob(3, b"b", -0.25, (TopLogprob(3, b"b", -0.25),)),
)
LIKELY = [{" a": -0.5, " b": -1.5}, {"b": -0.25}]


async def test_log_probabilities_where_they_are_asked_for(connect: Connect) -> None:
    deltas = [TextDelta(" a", logprobs=TOKENS[:1]), TextDelta("b", logprobs=TOKENS[1:])]
    http = await connect(FakeGenerate(Accepted(7), *deltas, Finished("stop", Usage(7, 2))))
    whole = (await http.post(COMPLETIONS, json={"prompt": PROMPT, "logprobs": 2})).json()
    assert whole["choices"][0]["logprobs"] == {
        "tokens": [" a", "b"],
        "token_logprobs": [-0.5, -0.25],
        "top_logprobs": LIKELY,
        "text_offset": [0, 2],
    }
    streamed = await http.post(COMPLETIONS, json={"prompt": PROMPT, "logprobs": 2, "stream": True})
    chunks = [json.loads(chunk.removeprefix("data: ")) for chunk in streamed.text.split("\n\n")[:-2]]
    assert [chunk["choices"][0]["logprobs"] and chunk["choices"][0]["logprobs"]["text_offset"] for chunk in chunks] == [
        [0],
        [2],
        None,
    ]


def test_choices_end_one_by_one() -> None:
    renderer = ChunkRenderer(ResponseHead("cmpl-1", 1, "tiny"))
    finished = Finished("stop", Usage(1, 2), other_reasons=("length",))
    sent = renderer.render([Accepted(1), TextDelta("b", choice=1), TextDelta("a"), finished]).decode()
    chunks = [json.loads(chunk.removeprefix("data: ")) for chunk in sent.split("\n\n")[:-2]]
    found = [(choice["index"], choice["text"], choice["finish_reason"]) for (choice,) in (c["choices"] for c in chunks)]
    assert found == [(1, "b", None), (0, "a", None), (0, "", "stop"), (1, "", "length")]
    assert [("usage" in chunk) for chunk in chunks] == [False, False, False, True]


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.lists(st.text(max_size=2))
NAMES = ("prompt", "suffix", "max_tokens", "temperature", "n", "best_of", "stop", "logprobs", "echo", "stream", "top_p")


@settings(max_examples=examples(200), deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, VALUES)) | VALUES)
def test_any_body_is_served_or_refused(body: Any) -> None:
    try:
        completion_request(parse_completion(json.dumps(body).encode()), "tiny", "r1", lambda: 42)
    except P2PNetError as error:
        assert error.message
