"""Events to the exact lines of Ollama's streams and documents, and models as it lists them, as tables."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import ollama
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.collected import Embedded, Generated, GeneratedChoice
from gateway.http.failures import failure
from gateway.http.replies import AnswerEvent
from gateway.interface import ModelEntry, Routed, Waiting
from gateway.surfaces.ollama.context import Turn, decode_context
from gateway.surfaces.ollama.models import (
    UNKNOWN_SIZE_BYTES,
    ModelList,
    render_running,
    render_shown,
    render_tags,
)
from gateway.surfaces.ollama.render import (
    NdjsonRenderer,
    SharedFields,
    render_embedding,
    render_embeddings,
    render_error,
    render_order,
    render_whole,
    timestamp,
)
from p2pnet.errors import ModelNotFound
from p2pnet.messages import (
    Accepted,
    Finished,
    FinishReason,
    TextDelta,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

NOW_S = 1_700_000_000.25
WHEN = "2023-11-14T22:13:20.250000000Z"
DIGEST = "sha256:" + "ab" * 32
HEAD = '{"model":"tiny:latest","created_at":"' + WHEN + '",'
CHAT_OPEN = HEAD + '"message":{"role":"assistant","content":'
COUNTS = '"prompt_eval_count":7,"eval_count":2'
ENDED = Finished("stop", Usage(7, 2))


class Ticks:
    """A monotonic clock that is a quarter of a second later each time it is read."""

    def __init__(self) -> None:
        self.now_s = 10.0

    def __call__(self) -> float:
        self.now_s += 0.25
        return self.now_s


def answer(is_chat: bool = True, turns: tuple[Turn, ...] | None = None) -> SharedFields:
    return SharedFields("tiny:latest", is_chat, lambda: NOW_S, Ticks(), turns)


def said(text: str) -> str:
    return CHAT_OPEN + json.dumps(text, ensure_ascii=False) + '},"done":false}'


def call_line(*calls: str, text: str = "") -> str:
    tool_calls = f',"tool_calls":[{",".join(calls)}]' if calls else ""
    return CHAT_OPEN + json.dumps(text) + tool_calls + '},"done":false}'


def last(reason: str = "stop", total: int = 750_000_000, said: int = 250_000_000) -> str:
    return (
        CHAT_OPEN + f'""}},"done":true,"done_reason":"{reason}","total_duration":{total},"load_duration":250000000,'
        f'"prompt_eval_duration":250000000,"eval_duration":{said},{COUNTS}}}'
    )


def piece(index: int, arguments: str = "", name: str | None = None) -> ToolCallDelta:
    return ToolCallDelta(index, None if name is None else f"id{index}", name, arguments)


STREAMS: list[tuple[str, Sequence[AnswerEvent], list[str]]] = [
    (
        "texts",
        [Accepted(7, DIGEST), TextDelta("Hi"), TextDelta(" «you»\n"), ENDED],
        [said("Hi"), said(" «you»\n"), last()],
    ),
    ("tokens without a text", [Accepted(7), TextDelta("", (1,)), TextDelta("Hi", (2,)), ENDED], [said("Hi"), last()]),
    ("length", [Accepted(7), TextDelta("Hi"), Finished("length", Usage(7, 2))], [said("Hi"), last("length")]),
    ("a filter", [Accepted(7), TextDelta("Hi"), Finished("content_filter", Usage(7, 2))], [said("Hi"), last("stop")]),
    ("nothing is said", [Accepted(7), ENDED], [last(total=500_000_000, said=1)]),
    (
        "ends of lines that JSON does not escape",
        [Accepted(7), TextDelta("a\x85b\u2028c\u2029d"), ENDED],
        [CHAT_OPEN + '"a\\u0085b\\u2028c\\u2029d"},"done":false}', last()],
    ),
    (
        "calls",
        [
            Accepted(7),
            TextDelta("I ask"),
            TextDelta(tool_calls=(piece(0, name="weather"),)),
            TextDelta(tool_calls=(piece(0, '{"city":\n "Bern",'),)),
            TextDelta(tool_calls=(piece(0, '"days":123456789012345678901}'), piece(1, name="time"))),
            Finished("tool_calls", Usage(7, 2)),
        ],
        [
            said("I ask"),
            call_line(
                '{"id":"id0","function":{"index":0,"name":"weather",'
                '"arguments":{"city":"Bern","days":123456789012345678901}}}'
            ),
            call_line('{"id":"id1","function":{"index":1,"name":"time","arguments":{}}}'),
            last(),
        ],
    ),
    (
        "text after a call",
        [Accepted(7), TextDelta(tool_calls=(piece(0, "{}", "f"),)), TextDelta("so"), ENDED],
        [call_line('{"id":"id0","function":{"index":0,"name":"f","arguments":{}}}'), said("so"), last()],
    ),
    (
        "what is no call",
        [
            Accepted(7),
            TextDelta(tool_calls=(piece(0, '{"a":', "f"),)),
            TextDelta(tool_calls=(piece(1, "[]", "g"),)),
            ENDED,
        ],
        [
            call_line(text='{"name": "f", "arguments": {"a":}'),
            call_line(text='{"name": "g", "arguments": []}'),
            last(),
        ],
    ),
    (
        "logprobs",
        [
            Accepted(7),
            TextDelta("é", (1, 2), logprobs=(TokenLogprob(1, b"\xc3", -0.5, (TopLogprob(1, b"a", -0.5),)),)),
            TextDelta("", (3,), logprobs=(TokenLogprob(3, b"b", float("-inf")),)),
            ENDED,
        ],
        [
            CHAT_OPEN + '"é"},"done":false,"logprobs":[{"token":"\ufffd","logprob":-0.5,"bytes":[195],'
            '"top_logprobs":[{"token":"a","logprob":-0.5,"bytes":[97]}]}]}',
            CHAT_OPEN + '""},"done":false,"logprobs":[{"token":"b","logprob":-9999.0,"bytes":[98],"top_logprobs":[]}]}',
            last(),
        ],
    ),
]


@pytest.mark.parametrize(("events", "lines"), [case[1:] for case in STREAMS], ids=[case[0] for case in STREAMS])
@pytest.mark.parametrize("is_whole", [True, False], ids=["in one batch", "one by one"])
def test_a_streamed_chat(events: Sequence[AnswerEvent], lines: list[str], is_whole: bool) -> None:
    renderer = NdjsonRenderer(answer())
    batches = [events] if is_whole else [[event] for event in events]
    sent = b"".join(renderer.render(batch) for batch in batches)
    assert sent.decode().split("\n") == [*lines, ""]


def test_a_streamed_answer_to_a_prompt_ends_with_its_context() -> None:
    turns = (Turn("system", "be brief"), Turn("user", "hi"))
    renderer = NdjsonRenderer(answer(is_chat=False, turns=turns))
    lines = renderer.render([Accepted(7), TextDelta("Hel"), TextDelta("lo"), ENDED]).decode().splitlines()
    assert lines[:2] == [HEAD + f'"response":"{text}","done":false}}' for text in ("Hel", "lo")]
    end = json.loads(lines[2])
    assert decode_context(end["context"]) == (*turns, Turn("assistant", "Hello"))
    assert (end["response"], end["done_reason"], end["eval_count"]) == ("", "stop", 2)


def test_raw_mode_has_no_context() -> None:
    sent = NdjsonRenderer(answer(is_chat=False)).render([Accepted(7), TextDelta("Hi"), ENDED])
    assert b"context" not in sent


def test_durations_are_never_zero() -> None:
    renderer = NdjsonRenderer(SharedFields("tiny", True, lambda: NOW_S, lambda: 5.0))
    end = json.loads(renderer.render([Accepted(7), TextDelta("Hi"), ENDED]).splitlines()[-1])
    assert [value for name, value in end.items() if name.endswith("_duration")] == [1, 1, 1, 1]


def test_a_silence_is_a_line_without_text() -> None:
    renderer = NdjsonRenderer(answer())
    assert renderer.keep_alive(None) == b""
    assert renderer.keep_alive(Waiting(2, 3.2)).decode() == (
        CHAT_OPEN + '""},"done":false,"status":"waiting for a worker: position 2, about 3 s"}\n'
    )
    while not (line := renderer.keep_alive(None)):
        pass
    assert line.decode() == said("") + "\n"


def test_a_failure_in_mid_stream_is_the_last_line() -> None:
    assert NdjsonRenderer(answer()).render_failure(failure("peer_lost", "gone\u2028")) == b'{"error":"gone\\u2028"}\n'
    assert render_error(failure("busy", "full")) == b'{"error":"full"}'


WHOLE: list[tuple[str, GeneratedChoice, FinishReason, dict[str, Any]]] = [
    ("text", GeneratedChoice("Hello", "stop"), "stop", {"content": "Hello"}),
    (
        "call",
        GeneratedChoice("", "tool_calls", (ToolCall("c1", "f", ' {"a": [1, 2]}'),)),
        "tool_calls",
        {
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "f", "arguments": {"a": [1, 2]}}}],
        },
    ),
    (
        "no call",
        GeneratedChoice("so: ", "tool_calls", (ToolCall("c1", "f", "nonsense"),)),
        "tool_calls",
        {"content": 'so: {"name": "f", "arguments": nonsense}'},
    ),
]


@pytest.mark.parametrize(("choice", "reason", "message"), [case[1:] for case in WHOLE], ids=[case[0] for case in WHOLE])
def test_a_whole_chat(choice: GeneratedChoice, reason: FinishReason, message: dict[str, Any]) -> None:
    generated = Generated((choice,), Finished(reason, Usage(7, 2)), DIGEST, Routed("w", 1, 1000), 1.5, 2.5)
    assert json.loads(render_whole(answer(), generated)) == {
        "model": "tiny:latest",
        "created_at": WHEN,
        "message": {"role": "assistant", **message},
        "done": True,
        "done_reason": "stop",
        "total_duration": 2_500_000_000,
        "load_duration": 1_000_000_000,
        "prompt_eval_duration": 500_000_000,
        "eval_duration": 1_000_000_000,
        "prompt_eval_count": 7,
        "eval_count": 2,
    }


def test_a_whole_answer_to_a_prompt() -> None:
    generated = Generated((GeneratedChoice("Hello", "length"),), Finished("length", Usage(7, 2)))
    document = json.loads(render_whole(answer(is_chat=False, turns=(Turn("user", "hi"),)), generated))
    assert (document["response"], document["done_reason"], document["total_duration"]) == ("Hello", "length", 1)
    assert decode_context(document["context"]) == (Turn("user", "hi"), Turn("assistant", "Hello"))


def test_load_and_unload() -> None:
    assert render_order(answer(), "load").decode() == CHAT_OPEN + '""},"done":true,"done_reason":"load"}'
    assert json.loads(render_order(answer(is_chat=False), "unload"))["response"] == ""


def test_vectors() -> None:
    vectors = (struct.pack("<2f", 0.5, -1), struct.pack("<2f", 1, 0))
    embedded = Embedded(vectors, Finished("stop", Usage(4, 0)), duration_s=0.5)
    document = json.loads(render_embeddings("v", embedded))
    assert document == {
        "model": "v",
        "embeddings": [[0.5, -1.0], [1.0, 0.0]],
        "total_duration": 500_000_000,
        "load_duration": 1,
        "prompt_eval_count": 4,
    }
    assert render_embedding(embedded) == b'{"embedding":[0.5,-1.0]}'


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (NOW_S, WHEN),
        (1_700_000_000.5 - 2**-22, "2023-11-14T22:13:20.499999761Z"),
    ],
)
def test_timestamps(unix_s: float, text: str) -> None:
    assert timestamp(unix_s) == text


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x85\u2028\u2029\n\x1c"), min_size=1),
        min_size=1,
        max_size=3,
    )
)
def test_the_stream_can_be_cut_at_any_byte(texts: list[str]) -> None:
    """By the decoder of lines that Ollama's Python client uses, which knows more ends of lines than JSON does."""
    renderer = NdjsonRenderer(answer())
    sent = renderer.render([Accepted(7), *(TextDelta(text) for text in texts), ENDED])
    for cut in range(len(sent) + 1):
        response = httpx.Response(200, content=iter((sent[:cut], sent[cut:])), headers={"content-type": "x"})
        lines = [json.loads(line) for line in response.iter_lines()]
        assert [line["message"]["content"] for line in lines] == [*texts, ""]
        assert [line["done"] for line in lines] == [False] * len(texts) + [True]


class CutStream(httpx.BaseTransport):
    """Answers with `body` in two pieces, cut at `cut`."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.cut = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=iter((self.body[: self.cut], self.body[self.cut :])))


def test_ollamas_client_reads_a_stream_that_is_cut_at_any_byte() -> None:
    renderer = NdjsonRenderer(answer())
    call = TextDelta(tool_calls=(piece(0, '{"city":"Zürich"}', "weather"),))
    transport = CutStream(
        renderer.keep_alive(Waiting(1))
        + renderer.render([Accepted(7), TextDelta("naïve "), TextDelta("\u2028 «日本»\n"), call, ENDED])
    )
    with ollama.Client("http://gateway", transport=transport) as client:
        for cut in range(len(transport.body) + 1):
            transport.cut = cut
            parts = list(client.chat("tiny", [], stream=True))
            assert "".join(part.message.content or "" for part in parts) == "naïve \u2028 «日本»\n"
            calls = [call.function for part in parts for call in part.message.tool_calls or ()]
            assert [(function.name, function.arguments) for function in calls] == [("weather", {"city": "Zürich"})]
            assert [part.done for part in parts] == [False] * 4 + [True]


ENTRIES = [
    ModelEntry("Qwen/Qwen3-0.6B", 0, 2, 32768, (DIGEST,), features=("chat", "fim", "tools"), dtypes=("bfloat16",)),
    ModelEntry("llama3.2:1b", 0, 1, 8192, (DIGEST,), quantizations=("Q4_K_M",), dtypes=("unknown",), is_warm=False),
    ModelEntry("vectors", 0, 1, tasks=("embed",)),
]

DETAILS: list[tuple[ModelEntry, str, int, str, str, str, str]] = [
    (ENTRIES[0], "Qwen/Qwen3-0.6B:latest", 1_200_000_000, "safetensors", "qwen3", "0.6B", "BF16"),
    (ENTRIES[1], "llama3.2:1b", 500_000_000, "gguf", "llama3", "1B", "Q4_K_M"),
    (ENTRIES[2], "vectors:latest", UNKNOWN_SIZE_BYTES, "safetensors", "vectors", "", "unknown"),
    (
        ModelEntry("mixtral-8x7b", 0, 1),
        "mixtral-8x7b:latest",
        112_000_000_000,
        "safetensors",
        "mixtral",
        "8X7B",
        "unknown",
    ),
    (
        ModelEntry("SmolLM2-135M", 0, 1, dtypes=("float32",)),
        "SmolLM2-135M:latest",
        540_000_000,
        "safetensors",
        "smollm2",
        "135M",
        "F32",
    ),
    (ModelEntry("42", 0, 1), "42:latest", UNKNOWN_SIZE_BYTES, "safetensors", "unknown", "", "unknown"),
]


@pytest.mark.parametrize(
    ("entry", "name", "size", "form", "family", "parameters", "level"), DETAILS, ids=lambda value: str(value)[:20]
)
def test_a_model_in_the_list(
    entry: ModelEntry, name: str, size: int, form: str, family: str, parameters: str, level: str
) -> None:
    listed = json.loads(render_tags([entry]))["models"][0]
    assert (listed["name"], listed["model"], listed["size"]) == (name, name, size)
    assert len(bytes.fromhex(listed["digest"])) == 32
    assert listed["modified_at"] == "1970-01-01T00:00:00.000000000Z"
    assert listed["details"] == {
        "parent_model": "",
        "format": form,
        "family": family,
        "families": [family],
        "parameter_size": parameters,
        "quantization_level": level,
    }


def test_two_models_never_have_one_name() -> None:
    entries = [ModelEntry("a", 0, 1), ModelEntry("a:latest", 0, 1)]
    assert [model["name"] for model in json.loads(render_tags(entries))["models"]] == ["a", "a:latest"]


def test_running_models_are_those_in_memory() -> None:
    running = json.loads(render_running(ENTRIES, NOW_S))["models"]
    assert [(model["name"], model["context_length"]) for model in running] == [
        ("Qwen/Qwen3-0.6B:latest", 32768),
        ("vectors:latest", 4096),
    ]
    assert running[0]["expires_at"] == "2023-11-14T22:18:20.250000000Z"
    assert running[0]["size_vram"] == running[0]["size"]


SHOWN: list[tuple[ModelEntry, dict[str, Any], list[str]]] = [
    (
        ENTRIES[0],
        {
            "general.architecture": "qwen3",
            "general.basename": "Qwen/Qwen3-0.6B",
            "qwen3.context_length": 32768,
            "general.parameter_count": 600_000_000,
        },
        ["completion", "insert", "tools"],
    ),
    (
        ENTRIES[2],
        {"general.architecture": "vectors", "general.basename": "vectors", "vectors.context_length": 4096},
        ["embedding"],
    ),
]


@pytest.mark.parametrize(("entry", "information", "capabilities"), SHOWN, ids=["generates", "embeds"])
def test_a_model_shown(entry: ModelEntry, information: dict[str, Any], capabilities: list[str]) -> None:
    shown = json.loads(render_shown(entry))
    assert shown["model_info"] == information
    assert shown["capabilities"] == capabilities
    assert shown["details"] and shown["modelfile"] and shown["template"] and shown["parameters"]


FOUND: list[tuple[str, str | None]] = [
    ("a", "a"),
    ("a:latest", "a"),
    ("b", "b:latest"),
    ("b:latest", "b:latest"),
    ("c:8b", "c:8b"),
    ("c", None),
    ("c:8b:latest", "c:8b"),
    ("", None),
    # In any case, but what is written exactly so goes first.
    ("B", "b:latest"),
    ("C:8B", "c:8b"),
    ("org/mixed-case", "Org/Mixed-Case"),
    ("ORG/MIXED-CASE:LATEST", "Org/Mixed-Case"),
    ("TINY", "TINY"),
    ("tiny", "Tiny"),
    ("Short", "a"),
    ("short:latest", "a"),
]


@pytest.mark.parametrize(("name", "model"), FOUND)
def test_names_with_and_without_latest(name: str, model: str | None) -> None:
    ids = ("a", "b:latest", "c:8b", "Org/Mixed-Case", "TINY", "Tiny")
    model_list = ModelList(lambda: [ModelEntry(id, 0, 1) for id in ids], {"short": "A"})
    found = model_list.find(name)
    assert (found.id if found else None) == model
    if found is None:
        with pytest.raises(ModelNotFound, match=rf"^model '{name}' not found$"):
            model_list.get(name)


def test_the_model_list_is_the_one_of_this_moment() -> None:
    entries = [ModelEntry("a", 0, 1)]
    model_list = ModelList(lambda: entries)
    assert model_list.find("a") is entries[0]
    entries = [ModelEntry("a", 0, 2), ModelEntry("b", 0, 1)]
    assert model_list.find("a") is entries[0]
    assert model_list.find("b") is entries[1]
