"""Events to the exact bytes of Anthropic's streams and documents, which its own client reads however they are cut."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import pytest

from gateway.http.collected import Collecting, Generated
from gateway.http.failures import failure
from gateway.http.replies import AnswerEvent
from gateway.interface import ModelEntry, Waiting
from gateway.surfaces.anthropic.render import (
    MessageHead,
    MessageRenderer,
    render_count,
    render_error,
    render_message,
    render_models,
)
from gateway.surfaces.anthropic.routes import page_of
from p2pnet.errors import WorkerFailed
from p2pnet.messages import Accepted, Finished, TextDelta, ToolCallDelta, Usage

MESSAGE = MessageHead("msg_1", "org/tiny", ("END", "\n"))
USAGE = Usage(7, 2, 4)

HEAD = (
    "message_start",
    {
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "org/tiny",
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 7,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 0,
            },
        }
    },
)
Event = tuple[str, dict[str, Any]]


def text_start(index: int) -> Event:
    return "content_block_start", {"index": index, "content_block": {"type": "text", "text": ""}}


def text(index: int, value: str) -> Event:
    return "content_block_delta", {"index": index, "delta": {"type": "text_delta", "text": value}}


def call_start(index: int, call_id: str, name: str) -> Event:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    return "content_block_start", {"index": index, "content_block": block}


def arguments(index: int, value: str) -> Event:
    return "content_block_delta", {"index": index, "delta": {"type": "input_json_delta", "partial_json": value}}


def stop(index: int) -> Event:
    return "content_block_stop", {"index": index}


def tail(reason: str, sequence: str | None = None) -> list[Event]:
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 2,
    }
    return [
        ("message_delta", {"delta": {"stop_reason": reason, "stop_sequence": sequence}, "usage": usage}),
        ("message_stop", {}),
    ]


CALLS = [
    Accepted(7),
    TextDelta("Let me see."),
    TextDelta(tool_calls=(ToolCallDelta(0, "call_1", "weather"),)),
    TextDelta(tool_calls=(ToolCallDelta(0, arguments='{"city": "Kö'), ToolCallDelta(0, arguments='ln"}'))),
    TextDelta(tool_calls=(ToolCallDelta(1, "call_2", "time", "{}"),)),
    Finished("tool_calls", USAGE),
]

STREAMS: list[tuple[str, Sequence[AnswerEvent], list[Event]]] = [
    (
        "text",
        [Accepted(7), TextDelta('He said "'), TextDelta(""), TextDelta("grüß\n"), Finished("stop", USAGE)],
        [HEAD, text_start(0), text(0, 'He said "'), text(0, "grüß\n"), stop(0), *tail("end_turn")],
    ),
    (
        "a limit",
        [Accepted(7), TextDelta("a"), Finished("length", USAGE)],
        [HEAD, text_start(0), text(0, "a"), stop(0), *tail("max_tokens")],
    ),
    (
        "a filter",
        [Accepted(7), TextDelta("a"), Finished("content_filter", USAGE)],
        [HEAD, text_start(0), text(0, "a"), stop(0), *tail("refusal")],
    ),
    (
        "a stop sequence",
        [Accepted(7), TextDelta("a"), Finished("stop", USAGE, stop="END")],
        [HEAD, text_start(0), text(0, "a"), stop(0), *tail("stop_sequence", "END")],
    ),
    (
        "a stop sequence that nobody asked for",
        [Accepted(7), TextDelta("a"), Finished("stop", USAGE, stop="x")],
        [HEAD, text_start(0), text(0, "a"), stop(0), *tail("end_turn")],
    ),
    ("nothing", [Accepted(7), Finished("stop", USAGE)], [HEAD, *tail("end_turn")]),
    (
        "calls",
        CALLS,
        [
            HEAD,
            text_start(0),
            text(0, "Let me see."),
            stop(0),
            call_start(1, "call_1", "weather"),
            arguments(1, '{"city": "Kö'),
            arguments(1, 'ln"}'),
            stop(1),
            call_start(2, "call_2", "time"),
            arguments(2, "{}"),
            stop(2),
            *tail("tool_use"),
        ],
    ),
    (
        "text after a call",
        [
            Accepted(7),
            TextDelta(tool_calls=(ToolCallDelta(0, "call_1", "time"),)),
            TextDelta("So."),
            TextDelta("!"),
            Finished("tool_calls", USAGE),
        ],
        [
            HEAD,
            call_start(0, "call_1", "time"),
            stop(0),
            text_start(1),
            text(1, "So."),
            text(1, "!"),
            stop(1),
            *tail("tool_use"),
        ],
    ),
]


@pytest.mark.parametrize("is_batch", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize(("events", "expected"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS])
def test_streams(events: Sequence[AnswerEvent], expected: list[Event], is_batch: bool) -> None:
    renderer = MessageRenderer(MESSAGE)
    sent = renderer.render(events) if is_batch else b"".join(renderer.render([event]) for event in events)
    assert parsed(sent) == expected


def parsed(stream: bytes) -> list[Event]:
    events = []
    for block in stream.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert document.pop("type") == name.removeprefix("event: ")
        events.append((name.removeprefix("event: "), document))
    return events


def test_silence_is_filled_with_pings() -> None:
    renderer = MessageRenderer(MESSAGE)
    assert renderer.keep_alive(None) == b'event: ping\ndata: {"type":"ping"}\n\n'
    assert renderer.keep_alive(Waiting(2, 5.0)) == (
        b': waiting for a worker: position 2, about 5 s\nevent: ping\ndata: {"type":"ping"}\n\n'
    )


def test_an_error_in_mid_stream() -> None:
    sent = MessageRenderer(MESSAGE).render_failure(failure("peer_lost", "gone"))
    assert parsed(sent) == [("error", {"error": {"type": "overloaded_error", "message": "gone"}})]


ERRORS = [
    ("invalid_request", "invalid_request_error"),
    ("context_length_exceeded", "invalid_request_error"),
    ("feature_missing", "invalid_request_error"),
    ("model_not_found", "not_found_error"),
    ("busy", "rate_limit_error"),
    ("no_worker", "overloaded_error"),
    ("worker_failed", "api_error"),
    ("internal", "api_error"),
    ("method_not_allowed", "invalid_request_error"),
    ("request_too_large", "request_too_large"),
]


@pytest.mark.parametrize(("code", "kind"), ERRORS)
def test_errors(code: str, kind: str) -> None:
    assert json.loads(render_error(failure(code, "no"))) == {"type": "error", "error": {"type": kind, "message": "no"}}


def whole(*events: AnswerEvent) -> Generated:
    collecting = Collecting(0.0)
    (generated,) = filter(None, [collecting.take(event, 1.0) for event in events])
    return generated


def test_a_whole_message_has_its_blocks_in_order() -> None:
    document = json.loads(render_message(MESSAGE, whole(*CALLS)))
    assert document["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Köln"}},
        {"type": "tool_use", "id": "call_2", "name": "time", "input": {}},
    ]
    assert (document["stop_reason"], document["stop_sequence"]) == ("tool_use", None)
    assert document["usage"]["input_tokens"] == 3
    assert json.loads(render_count(whole(*CALLS))) == {"input_tokens": 7}


def call(given: str, reason: Any = "tool_calls") -> Generated:
    piece = ToolCallDelta(0, "call_1", "weather", given)
    return whole(Accepted(7), TextDelta(tool_calls=(piece,)), Finished(reason, USAGE))


@pytest.mark.parametrize("given", ["{", "[]", "1", "{}}", "[" * 1000, '{"a": Infinit'])
def test_arguments_that_are_no_object_are_the_workers_fault(given: str) -> None:
    with pytest.raises(WorkerFailed):
        render_message(MESSAGE, call(given))


def test_of_arguments_that_were_cut_off_there_is_as_much_as_came() -> None:
    document = json.loads(render_message(MESSAGE, call('{"city": "Köln", "days": [1, 2', "length")))
    assert document["content"][0]["input"] == {"city": "Köln", "days": [1, 2]}
    assert document["stop_reason"] == "max_tokens"


ENTRIES = [ModelEntry(name, 1_700_000_000, 1, 512) for name in "abcde"]

PAGES = [
    (1000, None, None, "abcde", False),
    (2, None, None, "ab", True),
    (2, "b", None, "cd", True),
    (2, "d", None, "e", False),
    (2, "e", None, "", False),
    (2, None, "d", "bc", True),
    (3, None, "d", "abc", False),
    (2, "gone", None, "ab", True),
    (2, None, "gone", "", False),
]


@pytest.mark.parametrize(("limit", "after", "before", "names", "has_more"), PAGES)
def test_pages_of_models(limit: int, after: str | None, before: str | None, names: str, has_more: bool) -> None:
    page, more = page_of(ENTRIES, limit, after, before)
    assert ("".join(entry.id for entry in page), more) == (names, has_more)


def test_a_page_of_models() -> None:
    document = json.loads(render_models(ENTRIES[:1], has_more=False))
    assert document == {
        "data": [
            {
                "type": "model",
                "id": "a",
                "display_name": "a",
                "created_at": "2023-11-14T22:13:20Z",
                "lifecycle": "active",
                "max_input_tokens": 512,
            }
        ],
        "has_more": False,
        "first_id": "a",
        "last_id": "a",
    }
    assert json.loads(render_models([], has_more=False)) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }


def test_the_official_client_reads_the_stream_wherever_it_is_cut() -> None:
    renderer = MessageRenderer(MESSAGE)
    sent = renderer.keep_alive(Waiting(1)) + b"".join(
        renderer.render([event]) for event in CALLS if event is not CALLS[-2]
    )
    pieces: list[bytes] = []
    headers = {"content-type": renderer.media_type}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=iter(pieces)))
    http = httpx2.Client(transport=transport)
    with anthropic.Anthropic(api_key="none", base_url="http://gateway", max_retries=0, http_client=http) as client:
        for cut in range(len(sent) + 1):
            pieces[:] = [sent[:cut], sent[cut:]]
            with client.messages.stream(
                model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}]
            ) as stream:
                final = stream.get_final_message()
            assert [block.type for block in final.content] == ["text", "tool_use"], cut
            assert final.content[1].input == {"city": "Köln"}  # type: ignore[union-attr]
            assert final.stop_reason == "tool_use"
