"""Events to the exact bytes of OpenAI's streams and documents, as tables."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from gateway.http.collected import Generated, GeneratedChoice
from gateway.http.failures import failure
from gateway.http.replies import AnswerEvent
from gateway.interface import ModelEntry, Waiting
from gateway.surfaces.openai.documents import render_error, render_model, render_models
from gateway.surfaces.openai.render import CHAT, COMPLETION, Dialect, ResponseHead, SseRenderer, render_whole
from p2pnet.messages import (
    Accepted,
    Finished,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

HEAD = ResponseHead("id-1", 1_700_000_000, "org/tiny")
DIGEST = "sha256:" + "ab" * 32
USAGE = Usage(7, 2, cached_tokens=4)

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


def of(index: int, choice: str) -> str:
    return choice.replace('"index":0', f'"index":{index}', 1)


def calls(*pieces: str, before: str = "") -> str:
    says = before + '"tool_calls":[' + ",".join(pieces) + "]"
    return '[{"index":0,"delta":{' + says + '},"logprobs":null,"finish_reason":null}]'


TOTAL = (
    ',"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":4}}}'
)
HALF_EURO, REST_EURO = b"\xe2\x82", b"\xac"
HI_LOGPROB = TokenLogprob(5, b"Hi", -0.5, (TopLogprob(5, b"Hi", -0.5), TopLogprob(6, HALF_EURO, -1.0)))
EURO_LOGPROBS = (TokenLogprob(6, HALF_EURO, -1.0), TokenLogprob(7, REST_EURO, -0.25))
CHAT_HI = (
    '[{"index":0,"delta":{"content":"Hi"},"logprobs":{"content":[{"token":"Hi","logprob":-0.5,"bytes":[72,105],'
    '"top_logprobs":[{"token":"Hi","logprob":-0.5,"bytes":[72,105]},'
    '{"token":"bytes:\\\\xe2\\\\x82","logprob":-1.0,"bytes":[226,130]}]}],"refusal":null},"finish_reason":null}]'
)
CHAT_NO_TEXT = (
    '[{"index":0,"delta":{"content":""},"logprobs":{"content":[{"token":"bytes:\\\\xac","logprob":-0.25,"bytes":[172],'
    '"top_logprobs":[]}],"refusal":null},"finish_reason":null}]'
)
TEXT_HI = (
    '[{"index":0,"text":"Hi","logprobs":{"tokens":["Hi"],"token_logprobs":[-0.5],'
    '"top_logprobs":[{"Hi":-0.5,"bytes:\\\\xe2\\\\x82":-1.0}],"text_offset":[0]},"finish_reason":null}]'
)
TEXT_EURO = (
    '[{"index":0,"text":"\u20ac","logprobs":{"tokens":["bytes:\\\\xe2\\\\x82","bytes:\\\\xac"],'
    '"token_logprobs":[-1.0,-0.25],"top_logprobs":[{"bytes:\\\\xe2\\\\x82":-1.0},{"bytes:\\\\xac":-0.25}],'
    '"text_offset":[2,2]},"finish_reason":null}]'
)

STREAMS: list[tuple[str, Dialect, bool, Sequence[AnswerEvent], list[str]]] = [
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
        "chat that a filter ends",
        CHAT,
        False,
        [Accepted(7, DIGEST), TextDelta("Hi"), Finished("content_filter", USAGE)],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD + delta('"Hi"') + "}",
            CHAT_HEAD + last("content_filter") + "}",
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
            CHAT_HEAD + delta('"\\"\\\\\\n\\u0000\\u2028é\U0001f600"') + "}",
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
        "choices come in turns, and all end at the end",
        CHAT,
        False,
        [
            Accepted(7, DIGEST),
            TextDelta("a", choice=1),
            TextDelta("b"),
            Finished("stop", USAGE, other_reasons=("length",)),
        ],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD + of(1, OPENING) + "}",
            CHAT_HEAD + of(1, delta('"a"')) + "}",
            CHAT_HEAD + delta('"b"') + "}",
            CHAT_HEAD + last("stop") + "}",
            CHAT_HEAD + of(1, last("length")) + "}",
            "[DONE]",
        ],
    ),
    (
        "calls of tools",
        CHAT,
        False,
        [
            Accepted(7, DIGEST),
            TextDelta("So ", (1, 2), tool_calls=(ToolCallDelta(0, "call_1", "weather"),)),
            TextDelta("", (3,), tool_calls=(ToolCallDelta(0, arguments='{"a"'), ToolCallDelta(0, arguments=": 1}"))),
            TextDelta("", (4,), tool_calls=(ToolCallDelta(1, "call_2", "now", "{}"),)),
            Finished("tool_calls", USAGE),
        ],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD
            + calls(
                '{"index":0,"id":"call_1","type":"function","function":{"name":"weather","arguments":""}}',
                before='"content":"So ",',
            )
            + "}",
            CHAT_HEAD
            + calls('{"index":0,"function":{"arguments":"{\\"a\\""}}', '{"index":0,"function":{"arguments":": 1}"}}')
            + "}",
            CHAT_HEAD
            + calls('{"index":1,"id":"call_2","type":"function","function":{"name":"now","arguments":"{}"}}')
            + "}",
            CHAT_HEAD + last("tool_calls") + "}",
            "[DONE]",
        ],
    ),
    (
        "chat with logprobs, also of what has no text",
        CHAT,
        False,
        [
            Accepted(7, DIGEST),
            TextDelta("Hi", (5,), logprobs=(HI_LOGPROB,)),
            TextDelta("", (7,), logprobs=EURO_LOGPROBS[1:]),
            Finished("stop", USAGE),
        ],
        [
            CHAT_HEAD + OPENING + "}",
            CHAT_HEAD + CHAT_HI + "}",
            CHAT_HEAD + CHAT_NO_TEXT + "}",
            CHAT_HEAD + last("stop") + "}",
            "[DONE]",
        ],
    ),
    (
        "completion with logprobs, of a character in two tokens too",
        COMPLETION,
        False,
        [
            Accepted(7),
            TextDelta("Hi", (5,), logprobs=(HI_LOGPROB,), is_prompt=True),
            TextDelta("\u20ac", (6, 7), logprobs=EURO_LOGPROBS),
            Finished("length", USAGE),
        ],
        [
            TEXT_HEAD + TEXT_HI + "}",
            TEXT_HEAD + TEXT_EURO + "}",
            TEXT_HEAD + text('""', '"length"') + "}",
            "[DONE]",
        ],
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


def choices_of(events: Sequence[AnswerEvent]) -> int:
    finished = events[-1]
    assert isinstance(finished, Finished)
    return 1 + len(finished.other_reasons)


def sse(chunks: Sequence[str]) -> bytes:
    return "".join(f"data: {chunk}\n\n" for chunk in chunks).encode()


@CASES
def test_events_one_at_a_time(
    dialect: Dialect, with_usage: bool, events: Sequence[AnswerEvent], chunks: list[str]
) -> None:
    renderer = SseRenderer(dialect, HEAD, with_usage, choices_of(events))
    assert b"".join(renderer.render([event]) for event in events) == sse(chunks)


@CASES
def test_events_in_one_batch_are_the_same_bytes(
    dialect: Dialect, with_usage: bool, events: Sequence[AnswerEvent], chunks: list[str]
) -> None:
    assert SseRenderer(dialect, HEAD, with_usage, choices_of(events)).render(events) == sse(chunks)


@CASES
def test_every_chunk_is_json(
    dialect: Dialect, with_usage: bool, events: Sequence[AnswerEvent], chunks: list[str]
) -> None:
    documents = [json.loads(chunk) for chunk in chunks[:-1]]
    assert {document["id"] for document in documents} == {"id-1"}
    assert {document["created"] for document in documents} == {1_700_000_000}


def test_a_failure_in_the_stream_is_an_error_event_and_no_end() -> None:
    rendered = SseRenderer(CHAT, HEAD, False).render_failure(failure("peer_lost", "the worker went away"))
    assert rendered == (
        b'data: {"error":{"message":"the worker went away","type":"server_error","param":null,"code":"peer_lost"}}\n\n'
    )


@pytest.mark.parametrize(
    ("waiting", "comment"),
    [
        (None, b": keep-alive\n\n"),
        (Waiting(3), b": waiting for a worker: position 3\n\n"),
        (Waiting(1, 0.2), b": waiting for a worker: position 1, about 1 s\n\n"),
        (Waiting(12, 41.7), b": waiting for a worker: position 12, about 42 s\n\n"),
    ],
)
def test_a_keep_alive_is_a_comment_that_says_what_is_waited_for(waiting: Waiting | None, comment: bytes) -> None:
    assert SseRenderer(CHAT, HEAD, False).keep_alive(waiting) == comment


def test_a_whole_chat() -> None:
    generated = Generated((GeneratedChoice("Hi", "stop"),), Finished("stop", USAGE), DIGEST)
    assert json.loads(render_whole(CHAT, HEAD, generated)) == {
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
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


def test_a_whole_completion() -> None:
    generated = Generated((GeneratedChoice("Hi", "length"),), Finished("length", USAGE))
    document = json.loads(render_whole(COMPLETION, HEAD, generated))
    assert document["object"] == "text_completion"
    assert document["system_fingerprint"] is None
    assert document["choices"] == [{"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "length"}]


def test_whole_calls_of_tools() -> None:
    """An answer that only calls has no content."""
    call = ToolCall("call_1", "weather", "{}")
    choices = (GeneratedChoice("", "tool_calls", (call,)), GeneratedChoice("So", "tool_calls", (call,)))
    generated = Generated(choices, Finished("tool_calls", USAGE, other_reasons=("tool_calls",)))
    document = json.loads(render_whole(CHAT, HEAD, generated))
    as_sent = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    assert [choice["index"] for choice in document["choices"]] == [0, 1]
    assert [choice["message"]["content"] for choice in document["choices"]] == [None, "So"]
    assert [choice["message"]["tool_calls"] for choice in document["choices"]] == [[as_sent]] * 2
    assert {choice["finish_reason"] for choice in document["choices"]} == {"tool_calls"}


def test_whole_logprobs() -> None:
    first = TokenLogprob(5, b"Hi", None)
    choice = GeneratedChoice("\u20ac", "stop", (), EURO_LOGPROBS, "Hi", (first,))
    generated = Generated((choice,), Finished("stop", USAGE))
    (whole,) = json.loads(render_whole(COMPLETION, HEAD, generated))["choices"]
    assert whole["text"] == "Hi\u20ac"
    assert whole["logprobs"] == {
        "tokens": ["Hi", "bytes:\\xe2\\x82", "bytes:\\xac"],
        "token_logprobs": [None, -1.0, -0.25],
        "top_logprobs": [None, {"bytes:\\xe2\\x82": -1.0}, {"bytes:\\xac": -0.25}],
        "text_offset": [0, 2, 2],
    }


def test_models() -> None:
    entry = ModelEntry("org/tiny", 1_700_000_000, 2, 512, (DIGEST,), features=("chat",))
    document = {
        "id": "org/tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "p2pnet",
        "max_model_len": 512,
        "workers": 2,
        "digests": [DIGEST],
        "tasks": ["generate"],
        "features": ["chat"],
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
