"""Our requests in the words of other servers, and their lists of models as cards: tables."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from p2pnet.answer_forms import JsonFormat, JsonSchemaFormat
from p2pnet.errors import FeatureMissing, InvalidRequest, UsageError, WorkerFailed
from p2pnet.features import features_needed
from p2pnet.messages import (
    ChatPrompt,
    GenerateRequest,
    ImagePart,
    Message,
    Prompt,
    Sampling,
    TextPrompt,
    TokenPrompt,
    Tool,
    ToolCall,
)
from p2pnet.worker.backends.upstream.address import Address, parse_address
from p2pnet.worker.backends.upstream.dialect import clamped, estimated_prompt_tokens
from p2pnet.worker.backends.upstream.offer import Offer, announced_name, upstream_digest
from p2pnet.worker.backends.upstream.ollama import models as ollama
from p2pnet.worker.backends.upstream.ollama.dialect import OllamaDialect
from p2pnet.worker.backends.upstream.openai import models as openai
from p2pnet.worker.backends.upstream.openai.dialect import OpenAIDialect
from p2pnet.worker.backends.upstream.openai.flavours import FLAVOURS
from tests.images import base64, data_url, gif, jpeg, png, webp

HELLO = ChatPrompt((Message("user", "hello"),))
SCHEMA = '{"type":"object","required":["a"]}'
TOOLS = (Tool("look", "looks", '{"type":"object"}'), Tool("find"))
LOOK = {"type": "function", "function": {"name": "look", "description": "looks", "parameters": {"type": "object"}}}
FIND = {"type": "function", "function": {"name": "find", "parameters": {}}}

TALK = ChatPrompt(
    (
        Message("system", "be brief"),
        Message("user", "where?", name="ann"),
        Message("assistant", "", tool_calls=(ToolCall("c1", "look", '{"at":1}'),)),
        Message("tool", "here", tool_call_id="c1"),
    )
)


def request(prompt: Prompt = HELLO, **fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", "m", prompt, **fields)


def openai_offer(owned_by: str, **fields: Any) -> Offer:
    abilities = openai.Abilities(template_has_tools=True, continues_chats=True, gives_choices=True, slots=4)
    (offer,) = openai.parse_models(
        json.dumps({"data": [{"id": "m", "owned_by": owned_by, **fields}]}).encode(), abilities
    )
    return offer


def openai_call(owned_by: str, asked: GenerateRequest) -> tuple[str, dict[str, Any]]:
    call = OpenAIDialect().call(asked, openai_offer(owned_by))
    return call.path, call.body


def ollama_offer(version: tuple[int, ...] = (0, 13, 0), running: int | None = None, **shown: Any) -> Offer | None:
    fields = {"capabilities": ["completion", "tools"], **shown}
    return ollama.offer_of(
        ollama.Tag("m", digest="ab"), ollama.parse_shown(json.dumps(fields).encode()), running, version
    )


def ollama_call(asked: GenerateRequest, **shown: Any) -> tuple[str, dict[str, Any]]:
    offer = ollama_offer(**shown)
    assert offer is not None
    call = OllamaDialect().call(asked, offer)
    return call.path, call.body


PLAIN = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1.0,
    "top_p": 1.0,
    "seed": 0,
}
IN_FULL = {
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
LLAMA_IN_FULL = {
    "timings_per_token": True,
    "top_k": 0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "repeat_last_n": 4096,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
MESSAGES = {"messages": [{"role": "user", "content": "hello"}]}
SAMPLED = Sampling(
    seed=(5 << 31) + 7,
    temperature=0.5,
    top_k=4,
    top_p=0.9,
    min_p=0.1,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=-0.4,
    logit_bias={5: 1.5},
)

OPENAI_CALLS = [
    (
        "a chat, unrecognised",
        "someone",
        request(max_tokens=5, stop=("x",)),
        PLAIN | MESSAGES | {"max_tokens": 5, "stop": ["x"]},
    ),
    ("a chat without max_tokens", "someone", request(), PLAIN | MESSAGES),
    ("a chat, vLLM", "vllm", request(), PLAIN | IN_FULL | MESSAGES),
    (
        "sampling, vLLM",
        "vllm",
        request(sampling=SAMPLED, min_tokens=2, ignore_eos=True, n=2, stop_token_ids=()),
        PLAIN
        | IN_FULL
        | MESSAGES
        | {
            "seed": 7,
            "temperature": 0.5,
            "top_k": 4,
            "top_p": 0.9,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "presence_penalty": 0.3,
            "frequency_penalty": -0.4,
            "logit_bias": {"5": 1.5},
            "min_tokens": 2,
            "ignore_eos": True,
            "n": 2,
        },
    ),
    (
        "sampling, llama.cpp",
        "llamacpp",
        request(sampling=Sampling(repetition_penalty=1.2, top_k=3)),
        PLAIN | LLAMA_IN_FULL | MESSAGES | {"repeat_penalty": 1.2, "top_k": 3},
    ),
    (
        "penalties, LM Studio",
        "organization_owner",
        request(sampling=Sampling(presence_penalty=0.5)),
        PLAIN | MESSAGES | {"presence_penalty": 0.5, "frequency_penalty": 0.0},
    ),
    (
        "logprobs of a chat",
        "vllm",
        request(logprobs=0),
        PLAIN | IN_FULL | MESSAGES | {"logprobs": True, "top_logprobs": 0},
    ),
    (
        "logprobs of a chat, llama.cpp, where 0 is none",
        "llamacpp",
        request(logprobs=0),
        PLAIN | LLAMA_IN_FULL | MESSAGES | {"logprobs": True, "top_logprobs": 1},
    ),
    (
        "JSON",
        "vllm",
        request(response_format=JsonFormat()),
        PLAIN | IN_FULL | MESSAGES | {"response_format": {"type": "json_object"}},
    ),
    (
        "a schema",
        "vllm",
        request(response_format=JsonSchemaFormat(SCHEMA)),
        PLAIN
        | IN_FULL
        | MESSAGES
        | {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": json.loads(SCHEMA), "strict": True},
            }
        },
    ),
    (
        "tools",
        "vllm",
        request(ChatPrompt(HELLO.messages, TOOLS)),
        PLAIN | IN_FULL | MESSAGES | {"tools": [LOOK, FIND], "tool_choice": "auto", "parallel_tool_calls": True},
    ),
    (
        "one tool that must be called, one call only",
        "llamacpp",
        request(ChatPrompt(HELLO.messages, TOOLS, "required", "find", parallel_tool_calls=False)),
        PLAIN | LLAMA_IN_FULL | MESSAGES | {"tools": [FIND], "tool_choice": "required", "parallel_tool_calls": False},
    ),
    (
        "tools that must not be called",
        "vllm",
        request(ChatPrompt(HELLO.messages, TOOLS, "none")),
        PLAIN | IN_FULL | MESSAGES,
    ),
    (
        "a talk with a tool",
        "someone",
        request(TALK),
        PLAIN
        | {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "where?", "name": "ann"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
                    ],
                },
                {"role": "tool", "content": "here", "tool_call_id": "c1"},
            ]
        },
    ),
    ("a text", "someone", request(TextPrompt("abc"), max_tokens=3), PLAIN | {"prompt": "abc", "max_tokens": 3}),
    (
        "a text, as long as it may be",
        "someone",
        request(TextPrompt("abc")),
        PLAIN | {"prompt": "abc", "max_tokens": 4077},
    ),
    (
        "a text that seems too long",
        "someone",
        request(TextPrompt("abc" * 9000)),
        PLAIN | {"prompt": "abc" * 9000, "max_tokens": 16},
    ),
    ("a text, vLLM", "vllm", request(TextPrompt("abc")), PLAIN | IN_FULL | {"prompt": "abc", "max_tokens": None}),
    ("a text, llama.cpp", "llamacpp", request(TextPrompt("abc")), PLAIN | LLAMA_IN_FULL | {"prompt": "abc"}),
    (
        "a text's schema, llama.cpp",
        "llamacpp",
        request(TextPrompt("abc"), response_format=JsonSchemaFormat(SCHEMA), logprobs=2),
        PLAIN | LLAMA_IN_FULL | {"prompt": "abc", "json_schema": json.loads(SCHEMA), "logprobs": 2},
    ),
    (
        "a text's JSON, llama.cpp",
        "llamacpp",
        request(TextPrompt("abc"), response_format=JsonFormat()),
        PLAIN | LLAMA_IN_FULL | {"prompt": "abc", "json_schema": {"type": "object"}},
    ),
    (
        "token ids",
        "vllm",
        request(TokenPrompt((1, 2)), max_tokens=3, stop_token_ids=(9,)),
        PLAIN | IN_FULL | {"prompt": [1, 2], "max_tokens": 3, "stop_token_ids": [9]},
    ),
    (
        "token ids, and several answers, llama.cpp",
        "llamacpp",
        request(TokenPrompt((1, 2)), n=4),
        PLAIN | LLAMA_IN_FULL | {"prompt": [1, 2], "n": 4},
    ),
    (
        "an answer in a form that has begun, which is begun anew",
        "llamacpp",
        request(response_format=JsonFormat(), resume_text='{"a"', max_tokens=3),
        PLAIN | LLAMA_IN_FULL | MESSAGES | {"response_format": {"type": "json_object"}},
    ),
]


@pytest.mark.parametrize(
    ("owner", "asked", "body"), [case[1:] for case in OPENAI_CALLS], ids=[c[0] for c in OPENAI_CALLS]
)
def test_openai_calls(owner: str, asked: GenerateRequest, body: dict[str, Any]) -> None:
    path, said = openai_call(owner, asked)
    assert said == body
    assert path == ("/v1/chat/completions" if isinstance(asked.prompt, ChatPrompt) else "/v1/completions")


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def shown(image: bytes, mime: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image, mime)}}


IMAGES: list[tuple[str, tuple[ImagePart, ...], list[dict[str, Any]]]] = [
    ("", (ImagePart(png()),), [shown(png(), "image/png")]),
    ("abc", (ImagePart(gif()),), [shown(gif(), "image/gif"), part("abc")]),
    ("abc", (ImagePart(jpeg(2, 2), 3),), [part("abc"), shown(jpeg(2, 2), "image/jpeg")]),
    (
        "abc",
        (ImagePart(png()), ImagePart(gif(), 1), ImagePart(webp(b"VP8L", 2, 2), 1), ImagePart(png(), 3)),
        [
            shown(png(), "image/png"),
            part("a"),
            shown(gif(), "image/gif"),
            shown(webp(b"VP8L", 2, 2), "image/webp"),
            part("bc"),
            shown(png(), "image/png"),
        ],
    ),
]


@pytest.mark.parametrize(("text", "images", "parts"), IMAGES)
def test_images_are_parts_where_they_stand_in_the_text(
    text: str, images: tuple[ImagePart, ...], parts: list[dict[str, Any]]
) -> None:
    asked = request(ChatPrompt((Message("system", "be brief"), Message("user", text, images=images))))
    offer = openai_offer("vllm").reading_images()
    assert OpenAIDialect().call(asked, offer).body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": parts},
    ]
    begun = OpenAIDialect().call(msgspec.structs.replace(asked, resume_text="So"), offer).body["messages"]
    assert begun[1:] == [{"role": "user", "content": parts}, {"role": "assistant", "content": "So"}]


def test_ollama_has_images_before_the_text() -> None:
    prompt = ChatPrompt((Message("user", "abc", images=(ImagePart(png()), ImagePart(gif(), 2))),))
    _, said = ollama_call(request(prompt), capabilities=["completion", "vision"])
    assert said["messages"] == [{"role": "user", "content": "abc", "images": [base64(png()), base64(gif())]}]


@pytest.mark.parametrize("owner", ["someone", "vllm", "sglang", "llamacpp", "organization_owner", "ollama"])
def test_images_are_refused_where_no_server_says_that_it_reads_them(owner: str) -> None:
    asked = request(ChatPrompt((Message("user", "", images=(ImagePart(png()),)),)))
    with pytest.raises(FeatureMissing, match="cannot read images here"):
        _ = ollama_call(asked) if owner == "ollama" else openai_call(owner, asked)


def test_a_model_that_does_not_chat_reads_no_images() -> None:
    text_only = openai.parse_models(b'{"data":[{"id":"m"}]}', openai.Abilities(has_chat=False))[0]
    assert text_only.reading_images() == text_only


OPTIONS = {
    "seed": 0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "num_predict": 4096,
}
OLLAMA = {"model": "m", "stream": True, "truncate": False, "shift": False, "options": OPTIONS}
MODEL_STOPS = 'num_ctx    2048\nstop       "<|end|>"\nstop       "USER:"'

OLLAMA_CALLS: list[tuple[str, GenerateRequest, dict[str, Any], dict[str, Any]]] = [
    ("a chat", request(), {}, OLLAMA | MESSAGES),
    (
        "limits and sampling",
        request(max_tokens=5, sampling=Sampling(seed=3, temperature=0, top_p=0.5)),
        {},
        OLLAMA | MESSAGES | {"options": OPTIONS | {"num_predict": 5, "seed": 3, "temperature": 0, "top_p": 0.5}},
    ),
    (
        "stop strings beside the model's own",
        request(stop=("x",)),
        {"parameters": MODEL_STOPS},
        OLLAMA | MESSAGES | {"options": OPTIONS | {"num_predict": 2048, "stop": ["<|end|>", "USER:", "x"]}},
    ),
    ("a text", request(TextPrompt("abc")), {}, OLLAMA | {"prompt": "abc", "raw": True}),
    ("JSON", request(response_format=JsonFormat()), {}, OLLAMA | MESSAGES | {"format": "json"}),
    (
        "a schema, of a model that thinks",
        request(response_format=JsonSchemaFormat(SCHEMA)),
        {"capabilities": ["completion", "thinking"]},
        OLLAMA | MESSAGES | {"format": json.loads(SCHEMA), "think": False},
    ),
    ("logprobs", request(logprobs=3), {}, OLLAMA | MESSAGES | {"logprobs": True, "top_logprobs": 3}),
    ("tools", request(ChatPrompt(HELLO.messages, TOOLS)), {}, OLLAMA | MESSAGES | {"tools": [LOOK, FIND]}),
    ("tools that must not be called", request(ChatPrompt(HELLO.messages, TOOLS, "none")), {}, OLLAMA | MESSAGES),
    (
        "a talk with a tool",
        request(ChatPrompt(TALK.messages[1:])),
        {},
        OLLAMA
        | {
            "messages": [
                {"role": "user", "content": "where?"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": "c1", "function": {"name": "look", "arguments": {"at": 1}}}],
                },
                {"role": "tool", "content": "here", "tool_call_id": "c1", "tool_name": "look"},
            ]
        },
    ),
]


@pytest.mark.parametrize(
    ("asked", "shown", "body"), [case[1:] for case in OLLAMA_CALLS], ids=[c[0] for c in OLLAMA_CALLS]
)
def test_ollama_calls(asked: GenerateRequest, shown: dict[str, Any], body: dict[str, Any]) -> None:
    path, said = ollama_call(asked, **shown)
    assert said == body
    assert path == ("/api/chat" if isinstance(asked.prompt, ChatPrompt) else "/api/generate")


REQUIRED = request(ChatPrompt(HELLO.messages, TOOLS, "required"))
ONE_CALL = request(ChatPrompt(HELLO.messages, TOOLS, parallel_tool_calls=False))
BAD_TOOL = request(ChatPrompt(HELLO.messages, (Tool("x", parameters="[]"),)))
BAD_CALL = request(ChatPrompt((Message("assistant", "", (ToolCall("c", "f", "{oops"),)),)))

REFUSED = [
    ("vllm", request(echo=True), FeatureMissing, "echo"),
    ("vllm", request(resume_tokens=(1,)), FeatureMissing, "resume_tokens"),
    ("vllm", request(TokenPrompt((1,)), resume_text="a"), FeatureMissing, "resume_text"),
    ("vllm", request(ChatPrompt(HELLO.messages, TOOLS, "required"), resume_text="a"), FeatureMissing, "resume_text"),
    ("vllm", request(resume_text="<think>\nHm"), FeatureMissing, "resume_text"),
    ("someone", request(resume_text="a"), FeatureMissing, "resume_text"),
    ("organization_owner", request(TextPrompt("x"), resume_text="a"), FeatureMissing, "resume_text"),
    ("vllm", request(response_format=JsonSchemaFormat("{no")), InvalidRequest, "response_format"),
    ("vllm", BAD_TOOL, InvalidRequest, "tools"),
    ("someone", request(logprobs=1), FeatureMissing, "logprobs"),
    ("someone", request(sampling=Sampling(top_k=5)), FeatureMissing, "top_k"),
    ("sglang", request(TextPrompt("x"), logprobs=1), FeatureMissing, "logprobs"),
    ("llamacpp", request(TokenPrompt((1,)), stop_token_ids=(2,)), FeatureMissing, "stop_token_ids"),
    ("llamacpp", request(n=5), FeatureMissing, "n"),
    ("llamacpp", request(min_tokens=1), FeatureMissing, "min_tokens"),
    ("organization_owner", ONE_CALL, FeatureMissing, "parallel_tool_calls"),
    (
        "organization_owner",
        request(TextPrompt("x"), response_format=JsonSchemaFormat(SCHEMA)),
        FeatureMissing,
        "response_format",
    ),
    ("ollama", request(sampling=Sampling(presence_penalty=1)), FeatureMissing, "presence_penalty"),
    ("ollama", request(sampling=Sampling(repetition_penalty=2)), FeatureMissing, "top_k"),
    ("ollama", request(TokenPrompt((1,))), FeatureMissing, "prompt"),
    ("ollama", request(TextPrompt("")), FeatureMissing, "prompt"),
    ("ollama", request(n=2), FeatureMissing, "n"),
    ("ollama", REQUIRED, FeatureMissing, "tool_choice"),
    ("ollama", ONE_CALL, FeatureMissing, "parallel_tool_calls"),
    ("ollama", BAD_CALL, InvalidRequest, "messages"),
]


@pytest.mark.parametrize(("owner", "asked", "error", "param"), REFUSED)
def test_what_cannot_be_said_is_refused(
    owner: str, asked: GenerateRequest, error: type[FeatureMissing | InvalidRequest], param: str
) -> None:
    with pytest.raises(error) as refused:
        _ = ollama_call(asked) if owner == "ollama" else openai_call(owner, asked)
    assert refused.value.param == param


def test_nothing_that_a_flavour_announces_is_lost_in_translation() -> None:
    """Each feature, asked for by itself, changes what is said, or is refused."""
    ways: list[dict[str, Any]] = [
        {"sampling": Sampling(top_k=2)},
        {"sampling": Sampling(min_p=0.2)},
        {"sampling": Sampling(repetition_penalty=1.5)},
        {"sampling": Sampling(presence_penalty=0.5)},
        {"sampling": Sampling(frequency_penalty=0.5)},
        {"sampling": Sampling(logit_bias={1: 1.0})},
        {"logprobs": 3},
        {"n": 2},
        {"ignore_eos": True},
        {"min_tokens": 3},
        {"stop_token_ids": (4,)},
        {"response_format": JsonFormat()},
        {"response_format": JsonSchemaFormat(SCHEMA)},
    ]
    for flavour in FLAVOURS.values():
        owner = next(iter(flavour.owners), "someone")
        for prompt, can in ((HELLO, flavour.chat), (TextPrompt("abc"), flavour.text)):
            for way in ways:
                asked = request(prompt, **way)
                if way == {"stop_token_ids": (4,)} and not flavour.stops_at_ids:
                    continue
                if features_needed(asked) <= can:
                    assert openai_call(owner, asked) != openai_call(owner, request(prompt)), (flavour.name, way)


def test_no_server_is_said_to_resume_or_to_echo() -> None:
    for flavour in FLAVOURS.values():
        assert not {"resume", "echo"} & (flavour.chat | flavour.text)


CONTEXTS = [
    ({"max_model_len": 9000}, 9000),
    ({"meta": {"n_ctx": 2048, "n_ctx_train": 8192}}, 2048),
    ({"meta": {"n_ctx_train": 8192}}, 4096),
    ({"meta": {"n_ctx_train": 1024}}, 1024),
    ({"meta": None}, 4096),
    ({"context_length": 777}, 777),
    ({"max_model_len": 0}, 4096),
    ({"max_model_len": 1 << 40}, 1 << 24),
]


@pytest.mark.parametrize(("fields", "length"), CONTEXTS)
def test_context_length_of_openai_servers(fields: dict[str, Any], length: int) -> None:
    assert openai_offer("x", **fields).card.context_length == length


OLLAMA_CONTEXTS: list[tuple[int | None, dict[str, Any], int]] = [
    (None, {"model_info": {"llama.context_length": 131072}}, 4096),
    (None, {"model_info": {"llama.context_length": 2048, "general.architecture": "llama"}}, 2048),
    (None, {"model_info": {"llama.context_length": 131072}, "parameters": 'num_ctx 16384\nstop "x"'}, 16384),
    (32768, {"model_info": {"llama.context_length": 131072}}, 32768),
    (None, {"model_info": {"llama.context_length": "many"}}, 4096),
    (None, {"parameters": "num_ctx 0"}, 4096),
]


@pytest.mark.parametrize(("running", "shown", "length"), OLLAMA_CONTEXTS)
def test_context_length_of_ollama(running: int | None, shown: dict[str, Any], length: int) -> None:
    """What it serves, not what the model could do."""
    offer = ollama_offer(running=running, **shown)
    assert offer is not None and offer.card.context_length == length


@pytest.mark.parametrize(
    ("name", "embeds"),
    [
        ("text-embedding-nomic-embed-text-v1.5", True),
        ("nomic-embed-text:latest", True),
        ("org/Qwen3-Embedding-0.6B", True),
        ("embedded-systems-7b", False),
        ("llama-3.2-3b", False),
    ],
)
def test_embedding_models_in_a_list_are_told_by_their_names(name: str, embeds: bool) -> None:
    """They are announced where the server has a route for vectors."""
    body = json.dumps({"data": [{"id": name}]}).encode()
    (offer,) = openai.parse_models(body, openai.Abilities(has_vectors=True))
    assert (offer.does, offer.card.task) == (("embed", "embed") if embeds else ("generate", "generate"))
    assert offer.card.features
    (without,) = openai.parse_models(body, openai.Abilities())
    assert bool(without.card.features) != embeds


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("bge-reranker-v2-m3", True),
        ("mixedbread-ai/mxbai-rerank-large-v2", True),
        ("Qwen3-Reranker-0.6B", True),
        ("frankly-7b", False),
        ("pagerank-7b", False),
    ],
)
def test_and_so_are_those_that_rank(name: str, ranks: bool) -> None:
    body = json.dumps({"data": [{"id": name}]}).encode()
    (offer,) = openai.parse_models(body, openai.Abilities(has_ranks=True))
    assert (offer.does, offer.card.task) == (("rank", "embed") if ranks else ("generate", "generate"))
    assert ("rerank" in offer.card.features) is ranks
    (without,) = openai.parse_models(body, openai.Abilities(has_vectors=True))
    assert bool(without.card.features) != ranks


FILE_TYPES = [
    ("all F32", "none", "float32"),
    ("F16", "none", "float16"),
    ("Q4_K - Medium", "Q4_K_Medium", "unknown"),
    ("Q8_0 (guessed)", "Q8_0", "unknown"),
    ("Q" * 99, "unknown", "unknown"),
    (None, "unknown", "unknown"),
]


@pytest.mark.parametrize(("file_type", "quantization", "dtype"), FILE_TYPES)
def test_precision_of_llama_cpp(file_type: str | None, quantization: str, dtype: str) -> None:
    card = openai_offer("llamacpp", meta={"ftype": file_type}).card
    assert (card.quantization, card.dtype) == (quantization, dtype)


def test_ollamas_cards() -> None:
    offer = ollama_offer(details={"quantization_level": "Q4_K_M"})
    assert offer is not None
    assert (offer.card.quantization, offer.card.dtype) == ("Q4_K_M", "unknown")
    assert offer.card.features == ("chat", "json", "json_schema", "logprobs", "text", "tools")
    assert offer.card.digest == upstream_digest("ollama", "m", declared="ab") != upstream_digest("ollama", "m")
    old = ollama_offer((0, 5, 0), capabilities=None, details={"quantization_level": "BF16"})
    assert old is not None
    assert (old.card.quantization, old.card.dtype) == ("none", "bfloat16")
    assert old.card.features == ("chat", "json", "json_schema", "text")
    embeds = ollama_offer(capabilities=["embedding"])
    assert embeds is not None and embeds.does == "embed"
    assert (embeds.card.task, embeds.card.features) == ("embed", ("dimensions", "text"))
    assert ollama_offer(capabilities=["vision"]) is None
    sees = ollama_offer(capabilities=["completion", "vision"])
    assert sees is not None and "images" in sees.chat and "images" not in sees.text
    assert "images" in sees.card.features
    assert ollama_offer(remote_host="https://ollama.com") is None


def test_cards_of_openai_servers_follow_what_is_told() -> None:
    vllm, other = openai_offer("vllm", root="org/m").card, openai_offer("vllm", root="org/other").card
    assert vllm.digest != other.digest
    small, large = (openai_offer("llamacpp", meta={"size": size}).card.digest for size in (1, 2))
    assert small != large
    assert (vllm.quantization, vllm.dtype) == ("unknown", "unknown")
    text_only = openai.parse_models(b'{"data":[{"id":"m"}]}', openai.Abilities(has_chat=False))[0].card
    assert text_only.features == ("text",)
    no_tools = openai.parse_models(b'{"data":[{"id":"m","owned_by":"llamacpp"}]}', openai.Abilities())[0]
    assert "tools" not in no_tools.chat
    assert "resume_text" not in no_tools.card.features


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":3}', b'{"data":[{"id":4}]}', b"[" * 100_000, b"\xff"])
def test_lists_that_cannot_be_read(body: bytes) -> None:
    with pytest.raises(WorkerFailed):
        openai.parse_models(body, openai.Abilities())
    assert not openai.is_model_list(body)
    assert ollama.parse_version(body) is None


TEMPLATES = [
    (b'{"chat_template_caps":{"supports_tools":true,"supports_tool_calls":true}}', True),
    (b'{"chat_template_caps":{"supports_tools":true,"supports_tool_calls":false}}', False),
    (b'{"chat_template":"x"}', False),
    (b"<html>", False),
]


@pytest.mark.parametrize(("body", "has_tools"), TEMPLATES)
def test_llama_cpps_templates(body: bytes, has_tools: bool) -> None:
    props = openai.parse_props(body) or openai.Props()
    assert props.template_has_tools == has_tools
    assert props.continues_chats == (b"caps" in body)


SO_FAR = "Once upon "
CONTINUE = {"continue_final_message": True}
NO_BEGIN = {"add_generation_prompt": False}
CHAT_SO_FAR = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Once upon"}]
CONTINUED = [("vllm", CONTINUE | NO_BEGIN), ("sglang", CONTINUE), ("llamacpp", CONTINUE | NO_BEGIN)]


@pytest.mark.parametrize(("owner", "fields"), CONTINUED)
def test_a_chats_last_message_is_gone_on_with(owner: str, fields: dict[str, Any]) -> None:
    path, body = openai_call(owner, request(resume_text=SO_FAR))
    assert path == "/v1/chat/completions"
    assert body == openai_call(owner, request())[1] | {"messages": CHAT_SO_FAR} | fields
    tools = request(ChatPrompt(HELLO.messages, TOOLS if owner != "sglang" else ()), resume_text=SO_FAR)
    assert openai_call(owner, tools)[1]["messages"] == CHAT_SO_FAR
    assert openai_call(owner, request(resume_text=" \n")) == openai_call(owner, request()), "nothing that it could see"


@pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp", "ollama"])
def test_a_text_is_gone_on_with(owner: str) -> None:
    asked, whole = request(TextPrompt("Say: "), resume_text=SO_FAR), request(TextPrompt("Say: " + SO_FAR))
    if owner == "ollama":
        assert ollama_call(asked, template=OPEN_ENDED) == ollama_call(whole, template=OPEN_ENDED)
    else:
        assert openai_call(owner, asked) == openai_call(owner, whole)


OPEN_ENDED = "{{ range .Messages }}{{ .Content }}{{ if not $last }}<|eot_id|>{{ end }}{{ end }}"
OLLAMA_TEMPLATES = [
    ("it leaves the last message open", {"template": OPEN_ENDED}, True),
    ("with trimmed space", {"template": OPEN_ENDED.replace("{{ if not", "{{- if not")}, True),
    ("it ends every message", {"template": "{{ range .Messages }}{{ .Content }}<|eot_id|>{{ end }}"}, False),
    ("an older one", {"template": "[INST] {{ .Prompt }} [/INST] {{ .Response }}</s>"}, True),
    ("not rendered by a template", {"template": "{{ .Prompt }}"}, False),
    ("not told", {}, False),
    ("it thinks", {"template": OPEN_ENDED, "capabilities": ["completion", "thinking"]}, False),
]


@pytest.mark.parametrize(
    ("shown", "goes_on"), [case[1:] for case in OLLAMA_TEMPLATES], ids=[c[0] for c in OLLAMA_TEMPLATES]
)
def test_ollama_goes_on_with_chats_where_the_template_says_so(shown: dict[str, Any], goes_on: bool) -> None:
    offer = ollama_offer(**shown)
    assert offer is not None
    assert ("resume_text" in offer.card.features) == goes_on
    if goes_on:
        _, body = ollama_call(request(resume_text=SO_FAR), **shown)
        assert body == ollama_call(request(), **shown)[1] | {"messages": CHAT_SO_FAR}
    else:
        with pytest.raises(FeatureMissing):
            ollama_call(request(resume_text=SO_FAR), **shown)


def test_versions() -> None:
    assert ollama.parse_version(b'{"version":"0.12.11-rc1"}') == (0, 12, 11)
    assert ollama.parse_version(b'{"version":"x"}') == ()


ADDRESSES = [
    ("http://127.0.0.1:8000", Address("http://127.0.0.1:8000")),
    (" http://h:1/ ", Address("http://h:1")),
    ("https://h/v1", Address("https://h", True)),
    ("http://h:1/v1/", Address("http://h:1", True)),
    ("http://h/openai/v1", Address("http://h/openai", True)),
    ("http://[::1]:8080", Address("http://[::1]:8080")),
    ("HTTP://Host:1", Address("http://host:1")),
]


@pytest.mark.parametrize(("url", "address"), ADDRESSES)
def test_addresses(url: str, address: Address) -> None:
    assert parse_address(url) == address


BAD_URLS = (
    "localhost:8000 ftp://h http:// http://h:port http://h:99999 http://h?x=1 http://h#x http://[::1 http://h/a\x07"
)


@pytest.mark.parametrize("url", ["", "http://h h", "http://ü", *BAD_URLS.split()])
def test_bad_urls(url: str) -> None:
    with pytest.raises(UsageError):
        parse_address(url)


def test_a_secret_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as refused:
        parse_address("http://user:hunter2@h")
    assert "hunter2" not in str(refused.value) + refused.value.fix


def test_estimates() -> None:
    assert estimated_prompt_tokens(TextPrompt("")) == 1
    assert estimated_prompt_tokens(TextPrompt("x" * 400)) == 100
    assert estimated_prompt_tokens(TokenPrompt((1, 2, 3))) == 3
    assert estimated_prompt_tokens(HELLO) == 6
    assert estimated_prompt_tokens(TextPrompt("\ud800")) == 1
    assert estimated_prompt_tokens(ChatPrompt((Message("user", "", images=(ImagePart(b"a"),)),))) == 4 + 1024


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({"max_tokens": 100}, 100),
        ({"max_tokens": 100, "clamp_max_tokens": True}, None),
        ({"max_tokens": 50, "clamp_max_tokens": True}, 50),
        ({"max_tokens": 50, "clamp_max_tokens": True, "resume_text": "and so on " * 9}, None),
        ({"clamp_max_tokens": True}, None),
    ],
)
def test_a_limit_that_is_clamped_is_only_sent_where_it_surely_fits(
    fields: dict[str, Any], max_tokens: int | None
) -> None:
    """Servers refuse the others, and the answer is cut here in any case."""
    assert clamped(request(**fields), context_length=100).max_tokens == max_tokens


NAMES = [
    ("m", "m"),
    ("org/model:q4", "org/model:q4"),
    ("/models/x.gguf", "x.gguf"),
    ("/models/x y/", "x-y"),
    ("C:\\models\\My Model.gguf", "My-Model.gguf"),
    ("~/m.gguf", "m.gguf"),
    ("models/My Model (1).gguf", "models/My-Model-1-.gguf"),
    (" spaced ", "spaced"),
    ("_under", "under"),
    ("a" * 129, None),
    ("//", None),
    ("", None),
    ("模型-7b", None),
    ("m\x1b[31m", None),
]


@pytest.mark.parametrize(("there", "announced"), NAMES)
def test_what_a_model_is_announced_as_by_its_servers_name(there: str, announced: str | None) -> None:
    assert announced_name(there) == announced
