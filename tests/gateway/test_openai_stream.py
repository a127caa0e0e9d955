"""Events to the exact bytes of OpenAI's streams and documents, as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from gateway.failures import failure
from gateway.replies import Generated
from gateway.service import GenerationEvent, ModelEntry
from gateway.surfaces.openai_render import (
    CHAT,
    COMPLETION,
    Dialect,
    Envelope,
    SseRenderer,
    render_error,
    render_model,
    render_models,
    render_whole,
)
from p2pnet.messages import Accepted, Finished, TextDelta, Usage

ENVELOPE = Envelope("id-1", 1_700_000_000, "org/tiny")
DIGEST = "sha256:" + "ab" * 32
USAGE = Usage(7, 2)

CHAT_HEAD = (
    '{"id":"id-1","object":"chat.completion.chunk","created":1700000000,"model":"org/tiny",'
    f'"system_fingerprint":"{DIGEST}","choices":'
)
TEXT_HEAD = (
    '{"id":"id-1","object":"text_completion","created":1700000000,"model":"org/tiny",'
    '"system_fingerprint":null,"choices":'
)
OPENING = '[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'


def delta(text: str) -> str:
    return '[{"index":0,"delta":{"content":' + text + '},"logprobs":null,"finish_reason":null}]'


def last(reason: str) -> str:
    return '[{"index":0,"delta":{},"logprobs":null,"finish_reason":"' + reason + '"}]'


def text(value: str, reason: str = "null") -> str:
    return '[{"index":0,"text":' + value + ',"logprobs":null,"finish_reason":' + reason + "}]"


TOTAL = ',"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'

STREAMS: list[tuple[str, Dialect, bool, Sequence[GenerationEvent], list[str]]] = [
    (
        "chat",
        CHAT,
        False,
        [Accepted(7, DIGEST), TextDelta("Hi"), TextDelta(" you"), Finished("stop", USAGE)],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD + delta('"Hi"') + "}",
            CHAT_HEAD + delta('" you"') + "}",
            CHAT_HEAD + last("stop") + "}",
            "[DONE]",
        ],
    ),
    (
        "chat with usage",
        CHAT,
        True,
        [Accepted(7, DIGEST), TextDelta("Hi"), Finished("length", USAGE)],
        [
            CHAT_HEAD + OPENING + ',"usage":null}',
            CHAT_HEAD + delta('"Hi"') + ',"usage":null}',
            CHAT_HEAD + last("length") + ',"usage":null}',
            CHAT_HEAD + "[]" + TOTAL,
            "[DONE]",
        ],
    ),
    (
        "what JSON must escape, and what it need not",
        CHAT,
        False,
        [Accepted(7, DIGEST), TextDelta('"\\\n\x00\u2028é\U0001f600'), Finished("stop", USAGE)],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD + delta('"\\"\\\\\\n\\u0000\u2028é\U0001f600"') + "}",
            CHAT_HEAD + last("stop") + "}",
            "[DONE]",
        ],
    ),
    (
        "tokens without text yet make no chunk",
        CHAT,
        False,
        [Accepted(7, DIGEST), TextDelta("", (1,)), TextDelta("a", (2,)), TextDelta(""), Finished("stop", USAGE)],
        [CHAT_HEAD + OPENING + "}", CHAT_HEAD + delta('"a"') + "}", CHAT_HEAD + last("stop") + "}", "[DONE]"],
    ),
    (
        "completion",
        COMPLETION,
        False,
        [Accepted(7), TextDelta("Hi"), Finished("length", USAGE)],
        [TEXT_HEAD + text('"Hi"') + "}", TEXT_HEAD + text('""', '"length"') + "}", "[DONE]"],
    ),
    (
        "completion with usage",
        COMPLETION,
        True,
        [Accepted(7), TextDelta("Hi"), Finished("stop", USAGE)],
        [
            TEXT_HEAD + text('"Hi"') + ',"usage":null}',
            TEXT_HEAD + text('""', '"stop"') + ',"usage":null}',
            TEXT_HEAD + "[]" + TOTAL,
            "[DONE]",
        ],
    ),
]
CASES = pytest.mark.parametrize(
    ("dialect", "with_usage", "events", "chunks"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS]
)


def sse(chunks: Sequence[str]) -> bytes:
    return "".join(f"data: {chunk}\n\n" for chunk in chunks).encode()


@CASES
def test_events_one_at_a_time(
    dialect: Dialect, with_usage: bool, events: Sequence[GenerationEvent], chunks: list[str]
) -> None:
    renderer = SseRenderer(dialect, ENVELOPE, with_usage)
    assert b"".join(renderer.render([event]) for event in events) == sse(chunks)


@CASES
def test_events_in_one_batch_are_the_same_bytes(
    dialect: Dialect, with_usage: bool, events: Sequence[GenerationEvent], chunks: list[str]
) -> None:
    assert SseRenderer(dialect, ENVELOPE, with_usage).render(events) == sse(chunks)


@CASES
def test_every_chunk_is_json(
    dialect: Dialect, with_usage: bool, events: Sequence[GenerationEvent], chunks: list[str]
) -> None:
    documents = [json.loads(chunk) for chunk in chunks[:-1]]
    assert {document["id"] for document in documents} == {"id-1"}
    assert {document["created"] for document in documents} == {1_700_000_000}


def test_a_failure_in_the_stream_is_an_error_event_and_no_end() -> None:
    rendered = SseRenderer(CHAT, ENVELOPE, False).render_failure(failure("peer_lost", "the worker went away"))
    assert rendered == (
        b'data: {"error":{"message":"the worker went away","type":"server_error","param":null,"code":"peer_lost"}}\n\n'
    )


def test_a_keep_alive_is_a_comment() -> None:
    assert SseRenderer(CHAT, ENVELOPE, False).keep_alive == b": keep-alive\n\n"


def test_a_whole_chat() -> None:
    generated = Generated("Hi", Finished("stop", USAGE), DIGEST)
    assert json.loads(render_whole(CHAT, ENVELOPE, generated)) == {
        "id": "id-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "org/tiny",
        "system_fingerprint": DIGEST,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def test_a_whole_completion() -> None:
    generated = Generated("Hi", Finished("length", USAGE), None)
    document = json.loads(render_whole(COMPLETION, ENVELOPE, generated))
    assert document["object"] == "text_completion"
    assert document["system_fingerprint"] is None
    assert document["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length"}]


def test_models() -> None:
    entry = ModelEntry("org/tiny", 1_700_000_000, 2, 512, (DIGEST,))
    document = {
        "id": "org/tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "p2pnet",
        "max_model_len": 512,
        "workers": 2,
        "digests": [DIGEST],
    }
    assert json.loads(render_model(entry)) == document
    assert json.loads(render_models([entry])) == {"object": "list", "data": [document]}


@pytest.mark.parametrize(
    ("code", "kind"),
    [("invalid_request", "invalid_request_error"), ("busy", "rate_limit_error"), ("worker_failed", "server_error")],
)
def test_errors_have_openai_types(code: str, kind: str) -> None:
    document = json.loads(render_error(failure(code, "why", "field")))
    assert document == {"error": {"message": "why", "type": kind, "param": "field", "code": code}}
