"""What other servers answer, as our deltas: streams cut at every byte, ends, errors, and refusals."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from p2pnet.answer_forms import JsonFormat
from p2pnet.display.printable import MAX_MESSAGE_CHARS
from p2pnet.errors import (
    Busy,
    ContextOverflow,
    FeatureMissing,
    InvalidRequest,
    ModelNotFound,
    P2PNetError,
    WorkerFailed,
)
from p2pnet.messages import (
    ChatPrompt,
    Finished,
    FinishReason,
    GenerateRequest,
    Message,
    TextDelta,
    TextPrompt,
    TokenLogprob,
    Tool,
    ToolCallDelta,
    TopLogprob,
    Usage,
)
from p2pnet.wire.codec import MAX_EVENT_FRAME_BYTES, encode_frame
from p2pnet.worker.backends.upstream.answer import MAX_DELTA_CHARS, UpstreamAnswer
from p2pnet.worker.backends.upstream.dialect import AnswerReader
from p2pnet.worker.backends.upstream.lines import LineSplitter
from p2pnet.worker.backends.upstream.ollama.reader import OllamaReader
from p2pnet.worker.backends.upstream.openai.reader import OpenAIReader
from p2pnet.worker.backends.upstream.refusals import refusal
from tests.scripted_server import ndjson, sse

WITH_TOOLS = ChatPrompt((Message("user", "hi"),), tools=(Tool("look"),))


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest("r1", "m", fields.pop("prompt", ChatPrompt((Message("user", "hi"),))), **fields)


def read(reader: AnswerReader, asked: GenerateRequest, body: bytes, step: int = 1 << 20) -> list[TextDelta | Finished]:
    """All of an answer whose body comes in pieces of `step` bytes."""
    splitter, answer = LineSplitter(), UpstreamAnswer(asked, asked.max_tokens or 64)
    deltas: list[TextDelta | Finished] = []
    pieces = [body[begin : begin + step] for begin in range(0, len(body), step)]
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.flush()
    for line in lines:
        deltas += answer.take(reader.feed(line))
        if reader.is_ended or answer.is_cut:
            break
    deltas += answer.rest()
    plain = [msgspec.structs.replace(each, tokens=0) if isinstance(each, TextDelta) else each for each in deltas]
    return [*plain, answer.finished(reader.usage, 7)]


def openai(asked: GenerateRequest, *events: Any, step: int = 1 << 20) -> list[TextDelta | Finished]:
    return read(OpenAIReader(asked), asked, sse(*events), step)


def ollama(asked: GenerateRequest, *lines: Any, step: int = 1 << 20) -> list[TextDelta | Finished]:
    return read(OllamaReader(asked), asked, ndjson(lines), step)


def chunk(content: Any = None, finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": content, **delta}, "finish_reason": finish}]}


def call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": fields.pop("name")} if "name" in fields else {})}
    return chunk(tool_calls=[{"index": index, "function": function, **fields}])


USAGE = {
    "choices": [],
    "usage": {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}},
}
DONE = "[DONE]"
COUNTED = Usage(11, 3, 8)

ENDS: dict[str, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "stop_sequence": "stop",
    "end_turn": "stop",
    "STOP": "stop",
    "whatever": "stop",
    "length": "length",
    "max_tokens": "length",
    "abort": "length",
    "error": "length",
    "content_filter": "content_filter",
    "SAFETY": "content_filter",
}

OPENAI = [
    (
        "a chat",
        request(),
        [chunk("", role="assistant"), chunk("Hé"), chunk("llo"), chunk(None, "stop"), USAGE, DONE],
        [TextDelta("Hé"), TextDelta("llo"), Finished("stop", COUNTED)],
    ),
    (
        "a text",
        request(prompt=TextPrompt("x")),
        [
            {"choices": [{"index": 0, "text": " a", "finish_reason": None}]},
            {"choices": [{"text": "b", "finish_reason": "length"}]},
            DONE,
        ],
        [TextDelta(" a"), TextDelta("b"), Finished("length", Usage(7, 2))],
    ),
    (
        "an end without [DONE], usage with the last chunk",
        request(),
        [chunk("a"), chunk(None, "stop") | {"usage": {"prompt_tokens": 2, "completion_tokens": 1}}],
        [TextDelta("a"), Finished("stop", Usage(2, 1))],
    ),
    (
        "usage that cannot be",
        request(),
        [chunk("a", "stop"), {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 3}}, DONE],
        [TextDelta("a"), Finished("stop", Usage(7, 1))],
    ),
    (
        "a stop string that the server leaves in",
        request(stop=("lo w",)),
        [chunk("hel"), chunk("lo"), chunk(" wor"), chunk("ld"), chunk(None, "length"), DONE],
        [TextDelta("he"), TextDelta("l"), Finished("stop", Usage(7, 3), stop="lo w")],
    ),
    (
        "a stop string that vLLM names",
        request(stop=("x", "lo")),
        [chunk("hel"), {"choices": [{"delta": {}, "finish_reason": "stop", "stop_reason": "lo"}]}, DONE],
        [TextDelta("he"), TextDelta("l"), Finished("stop", Usage(7, 1), stop="lo")],
    ),
    (
        "an end token that SGLang names, and a stop string that nobody asked for",
        request(stop=("x",)),
        [
            chunk("hello"),
            {"choices": [{"delta": {}, "finish_reason": "stop", "matched_stop": 2, "stop_reason": ["x"]}]},
            DONE,
        ],
        [TextDelta("hello"), Finished("stop", Usage(7, 1))],
    ),
    (
        "space that has been said",
        request(resume_text="Once upon \n"),
        [chunk(" "), chunk("\na"), chunk(" b"), chunk(None, "stop"), DONE],
        [TextDelta("a"), TextDelta(" b"), Finished("stop", Usage(7, 3))],
    ),
    (
        "other space than has been said",
        request(resume_text="Once upon \n"),
        [chunk(" \ta"), chunk("\n"), chunk(None, "stop"), DONE],
        [TextDelta("\ta"), TextDelta("\n"), Finished("stop", Usage(7, 2))],
    ),
    (
        "space after a text that was sent whole",
        request(prompt=TextPrompt("x"), resume_text="Once "),
        [{"choices": [{"text": " a", "finish_reason": "stop"}]}, DONE],
        [TextDelta(" a"), Finished("stop", Usage(7, 1))],
    ),
    (
        "what might have been a stop string",
        request(stop=("zzz",)),
        [chunk("az"), chunk("z"), chunk(None, "stop"), DONE],
        [TextDelta("a"), TextDelta("zz"), Finished("stop", Usage(7, 2))],
    ),
    (
        "two answers",
        request(n=2),
        [chunk("a"), chunk("x", index=1), chunk(None, "stop"), chunk("y", "length", index=1), DONE],
        [
            TextDelta("a"),
            TextDelta("x", choice=1),
            TextDelta("y", choice=1),
            Finished("stop", Usage(7, 3), other_reasons=("length",)),
        ],
    ),
    (
        "reasoning",
        request(),
        [chunk(reasoning_content="hm"), chunk(reasoning="m"), chunk("so"), chunk(None, "stop"), DONE],
        [TextDelta("<think>\nhm"), TextDelta("m"), TextDelta("\n</think>\n\nso"), Finished("stop", Usage(7, 3))],
    ),
    (
        "reasoning where JSON was promised",
        request(response_format=JsonFormat()),
        [chunk(reasoning_content="hm"), chunk("{}"), chunk(None, "stop"), DONE],
        [TextDelta("{}"), Finished("stop", Usage(7, 2))],
    ),
    (
        "tool calls in pieces",
        request(prompt=WITH_TOOLS),
        [
            chunk("I "),
            call(0, "", id="c1", name="look"),
            call(0, '{"a"'),
            call(0, ":1}"),
            call(1, "{}", name="look"),
            chunk(None, "tool_calls"),
            DONE,
        ],
        [
            TextDelta("I "),
            TextDelta(tool_calls=(ToolCallDelta(0, "c1", "look"),)),
            TextDelta(tool_calls=(ToolCallDelta(0, arguments='{"a"'),)),
            TextDelta(tool_calls=(ToolCallDelta(0, arguments=":1}"),)),
            TextDelta(tool_calls=(ToolCallDelta(1, "call_1", "look", "{}"),)),
            Finished("tool_calls", Usage(7, 5)),
        ],
    ),
    (
        "text before a tool call that might have been a stop string",
        request(prompt=WITH_TOOLS, stop=("zzz",)),
        [chunk("az"), call(0, "{}", id="c", name="look"), chunk(None, "tool_calls"), DONE],
        [
            TextDelta("a"),
            TextDelta("z"),
            TextDelta(tool_calls=(ToolCallDelta(0, "c", "look", "{}"),)),
            Finished("tool_calls", Usage(7, 2)),
        ],
    ),
    (
        "a forced tool call, which vLLM ends with stop",
        request(prompt=WITH_TOOLS),
        [call(0, "{}", id="c", name="look"), chunk(None, "stop"), DONE],
        [TextDelta(tool_calls=(ToolCallDelta(0, "c", "look", "{}"),)), Finished("tool_calls", Usage(7, 1))],
    ),
    (
        "parallel calls that share an index",
        request(prompt=WITH_TOOLS),
        [
            call(0, '{"a":', id="a", name="look"),
            call(0, "1}"),
            call(0, "{}", id="b", name="look"),
            chunk(None, "tool_calls"),
            DONE,
        ],
        [
            TextDelta(tool_calls=(ToolCallDelta(0, "a", "look", '{"a":'),)),
            TextDelta(tool_calls=(ToolCallDelta(0, arguments="1}"),)),
            TextDelta(tool_calls=(ToolCallDelta(1, "b", "look", "{}"),)),
            Finished("tool_calls", Usage(7, 3)),
        ],
    ),
    *(
        (
            f"parallel calls {what}, in one chunk",
            request(prompt=WITH_TOOLS),
            [
                chunk(
                    tool_calls=[
                        {**index, "id": "a", "function": {"name": "look", "arguments": '{"a":'}},
                        {**index, "function": {"arguments": "1}"}},
                        {**index, "id": "b", "function": {"name": "look", "arguments": {"b": [2]}}},
                    ]
                ),
                chunk("", "tool_calls"),
                DONE,
            ],
            [
                TextDelta(tool_calls=(ToolCallDelta(0, "a", "look", '{"a":'),)),
                TextDelta(tool_calls=(ToolCallDelta(0, arguments="1}"),)),
                TextDelta(tool_calls=(ToolCallDelta(1, "b", "look", '{"b":[2]}'),)),
                Finished("tool_calls", Usage(7, 1)),
            ],
        )
        for what, index in (("without an index", {}), ("whose index is null", {"index": None}))
    ),
    (
        "text in parts",
        request(),
        [chunk([{"type": "text", "text": "a"}, {"type": "other"}, {"text": "b"}]), chunk([], "stop"), DONE],
        [TextDelta("ab"), Finished("stop", Usage(7, 1))],
    ),
    *(
        (
            f"an end that a server calls {said!r}",
            request(),
            [chunk("a"), chunk(None, said), USAGE, DONE],
            [TextDelta("a"), Finished(reason, COUNTED)],
        )
        for said, reason in ENDS.items()
    ),
    (
        "a forced tool call that a filter ends",
        request(prompt=WITH_TOOLS),
        [call(0, "{", id="c", name="look"), chunk(None, "content_filter"), DONE],
        [TextDelta(tool_calls=(ToolCallDelta(0, "c", "look", "{"),)), Finished("content_filter", Usage(7, 1))],
    ),
    (
        "usage without numbers",
        request(),
        [
            chunk("a"),
            chunk(None, "stop") | {"usage": {"prompt_tokens": 5, "completion_tokens": None, "total_tokens": None}},
            DONE,
        ],
        [TextDelta("a"), Finished("stop", Usage(7, 1))],
    ),
    (
        "no usage, chunks and choices that are null",
        request(),
        ["null", chunk("a") | {"usage": None}, "null", {"choices": None}, {"choices": [None]}, chunk("", "stop"), DONE],
        [TextDelta("a"), Finished("stop", Usage(7, 1))],
    ),
    (
        "comments, other fields and events between",
        request(),
        [b": ping\r\n\r\nevent: message\n", chunk("a") | {"id": "x", "timings": {"n": 1}}, chunk("b", "eos"), DONE],
        [TextDelta("a"), TextDelta("b"), Finished("stop", Usage(7, 2))],
    ),
]


@pytest.mark.parametrize(
    ("asked", "events", "expected"), [case[1:] for case in OPENAI], ids=[case[0] for case in OPENAI]
)
def test_openai_answers(asked: GenerateRequest, events: list[Any], expected: list[TextDelta | Finished]) -> None:
    """However the bytes are cut."""
    size = len(sse(*events))
    for step in (*range(1, 12), size):
        assert openai(asked, *events, step=step) == expected


def line(content: str = "", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content}, "done": False, **fields}


def last(reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    return line(done=True, done_reason=reason, prompt_eval_count=11, eval_count=3, **fields)


OLLAMA = [
    (
        "a chat",
        request(),
        [line("Hé"), line("llo"), last()],
        [TextDelta("Hé"), TextDelta("llo"), Finished("stop", Usage(11, 3))],
    ),
    (
        "a text",
        request(prompt=TextPrompt("x")),
        [{"response": "a", "done": False}, {"response": "b", "done": True, "done_reason": "length"}],
        [TextDelta("a"), TextDelta("b"), Finished("length", Usage(7, 2))],
    ),
    (
        "thinking",
        request(),
        [line() | {"message": {"content": "", "thinking": "hm"}}, line("so"), last()],
        [TextDelta("<think>\nhm"), TextDelta("\n</think>\n\nso"), Finished("stop", Usage(11, 3))],
    ),
    (
        "tool calls",
        request(prompt=WITH_TOOLS),
        [
            line() | {"message": {"tool_calls": [{"function": {"name": "look", "arguments": {"a": 1}}}]}},
            line() | {"message": {"tool_calls": [{"id": "c", "function": {"name": "look"}}]}},
            line() | {"message": {"tool_calls": [{"id": "d", "function": {"name": "look", "arguments": '{"a":2}'}}]}},
            last(),
        ],
        [
            TextDelta(tool_calls=(ToolCallDelta(0, "call_0", "look", '{"a":1}'),)),
            TextDelta(tool_calls=(ToolCallDelta(1, "c", "look", "{}"),)),
            TextDelta(tool_calls=(ToolCallDelta(2, "d", "look", '{"a":2}'),)),
            Finished("tool_calls", Usage(11, 3)),
        ],
    ),
    (
        "logprobs",
        request(logprobs=1),
        [
            line(
                "é",
                logprobs=[
                    {
                        "token": "é",
                        "logprob": -0.5,
                        "bytes": [195, 169],
                        "top_logprobs": [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}],
                    }
                ],
            ),
            last(),
        ],
        [
            TextDelta("é", logprobs=(TokenLogprob(0, b"\xc3\xa9", -0.5, (TopLogprob(0, b"a", -1.0),)),)),
            Finished("stop", Usage(11, 3)),
        ],
    ),
    *(
        (f"an end that Ollama calls {said!r}", request(), [line("a"), last(said)], [TextDelta("a"), end])
        for said, end in (("abort", Finished("length", Usage(11, 3))), ("whatever", Finished("stop", Usage(11, 3))))
    ),
    (
        "lines that are null, and no usage",
        request(),
        [None, line("a"), line() | {"message": None}, line(done=True, done_reason="stop", eval_count=None)],
        [TextDelta("a"), Finished("stop", Usage(7, 1))],
    ),
    ("an old version's end", request(), [line("a"), last(None)], [TextDelta("a"), Finished("stop", Usage(11, 3))]),
]


@pytest.mark.parametrize(
    ("asked", "lines", "expected"), [case[1:] for case in OLLAMA], ids=[case[0] for case in OLLAMA]
)
def test_ollama_answers(asked: GenerateRequest, lines: list[Any], expected: list[TextDelta | Finished]) -> None:
    for step in (*range(1, 12), len(ndjson(lines))):
        assert ollama(asked, *lines, step=step) == expected


CHAT_LOGPROBS = {
    "content": [
        {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [{"token": "a", "logprob": -0.5, "id": 4}]},
        {"token": "\ufffd", "logprob": -1.0, "bytes": [195], "id": 9},
    ]
}
TEXT_LOGPROBS = {
    "tokens": ["a", "b"],
    "token_logprobs": [-0.5, -1.5],
    "top_logprobs": [{"c": -2.0, "a": -0.5}, None],
}


def test_logprobs_of_openai_servers() -> None:
    asked = request(logprobs=1)
    chat = chunk("a\ufffd", "stop")
    chat["choices"][0]["logprobs"] = CHAT_LOGPROBS
    (delta, _) = openai(asked, chat, DONE)
    top = (TopLogprob(4, b"a", -0.5),)
    assert delta == TextDelta("a\ufffd", logprobs=(TokenLogprob(0, b"a", -0.5, top), TokenLogprob(9, b"\xc3", -1.0)))
    text = {"choices": [{"text": "ab", "finish_reason": "stop", "logprobs": TEXT_LOGPROBS}]}
    (delta, _) = openai(asked, text, DONE)
    top = (TopLogprob(0, b"a", -0.5),)
    assert delta == TextDelta("ab", logprobs=(TokenLogprob(0, b"a", -0.5, top), TokenLogprob(0, b"b", -1.5)))
    (delta, _) = openai(request(), chat, DONE)
    assert delta == TextDelta("a\ufffd"), "nobody asked for any"


FAILURES = [
    [],
    [DONE],
    [chunk("a")],
    [chunk("a"), DONE],
    [chunk("a"), "{garbage"],
    [chunk("a"), "[" * 60_000],
    [chunk("a"), {"choices": "many"}],
    [chunk("a"), {"error": {"message": "out of memory"}}],
    [chunk("a"), {"error": "oops"}],
    [chunk("a", index=1)],
    [chunk("a", index=-1)],
    [call(0, "{}", id="c", name="look"), chunk(None, "stop"), DONE],  # nobody offered a tool
    [chunk("x" * 70_000), chunk(None, "stop"), DONE],  # 64 tokens were asked for
    [chunk("x") for _ in range(300)],
]


@pytest.mark.parametrize("events", FAILURES, ids=range(len(FAILURES)))
def test_openai_answers_that_fail(events: list[Any]) -> None:
    with pytest.raises(WorkerFailed) as failed:
        openai(request(max_tokens=64), *events)
    assert "out of memory" not in failed.value.message


TOOL_FAILURES = [
    [call(0, "{}")],
    [call(-1, "{}", name="look")],
    [call(256, "{}", name="look")],
    [call(0, "{}", name="look" * 50)],
    [call(0, "{}", name="look", id="i" * 200)],
    [call(0, "{" + "1" * 70_000, name="look")],
]


@pytest.mark.parametrize("events", TOOL_FAILURES, ids=range(len(TOOL_FAILURES)))
def test_tool_calls_that_fail(events: list[Any]) -> None:
    with pytest.raises(WorkerFailed):
        openai(request(prompt=WITH_TOOLS, max_tokens=64), *events, chunk(None, "stop"), DONE)


OLLAMA_FAILURES = [
    [],
    [line("a")],
    [line("a"), "garbage"],
    [line("a"), {"error": "an error was encountered while running the model"}],
    [line("a"), last("load")],
    [line("a"), last("unload")],
    [line() | {"message": {"tool_calls": [{"function": {"name": ""}}]}}, last()],
]


@pytest.mark.parametrize("lines", OLLAMA_FAILURES, ids=range(len(OLLAMA_FAILURES)))
def test_ollama_answers_that_fail(lines: list[Any]) -> None:
    with pytest.raises(WorkerFailed):
        ollama(request(prompt=WITH_TOOLS), *lines)


def counted(asked: GenerateRequest, *events: Any) -> list[int]:
    reader, answer = OpenAIReader(asked), UpstreamAnswer(asked, 64)
    lines = LineSplitter().feed(sse(*events))
    return [delta.tokens for one in lines for delta in answer.take(reader.feed(one))]


def test_each_delta_says_how_many_tokens_it_is() -> None:
    """Those that were held back before it among them. A gateway counts them when it goes on from the text."""
    assert counted(request(), chunk("a"), chunk(""), chunk("b", "stop")) == [1, 1]
    assert counted(request(stop=("zz",)), chunk("a"), chunk("z"), chunk("b"), chunk("z")) == [1, 2]
    assert counted(request(), chunk("x" * (2 * MAX_DELTA_CHARS))) == [2731, 0], "it can be no single token"
    assert counted(request(prompt=WITH_TOOLS), call(0, "{", id="c", name="look"), call(0, "}")) == [1, 1]


def llama_chunk(text: str, predicted: int, index: int = 0) -> dict[str, Any]:
    """As llama.cpp sends it when it is asked to count."""
    return chunk(text, index=index) | {"timings": {"predicted_n": predicted}}


COUNTS: list[tuple[str, GenerateRequest, list[Any], list[int]]] = [
    ("a character of three tokens", request(), [llama_chunk("é", 1), llama_chunk("🙂", 4)], [1, 3]),
    ("tokens that said nothing yet", request(), [llama_chunk("", 2), llama_chunk("a", 3)], [3]),
    ("two answers", request(n=2), [llama_chunk("a", 1), llama_chunk("b", 2, 1), llama_chunk("c", 2)], [1, 2, 1]),
    (
        "vLLM, which counts in its usage",
        request(),
        [
            chunk("", role="assistant") | {"usage": {"completion_tokens": 0}},
            chunk("a b c") | {"usage": {"completion_tokens": 5}},
        ],
        [5],
    ),
    ("what cannot be", request(), [llama_chunk("a", -1), llama_chunk("b", 1 << 40)], [1, 1]),
    ("many words at once", request(), [chunk("four words at once, whatever they are")], [13]),
    ("a token at a time", request(), [chunk("a"), chunk(" b"), chunk(" c")], [1, 1, 1]),
]


@pytest.mark.parametrize(("asked", "events", "tokens"), [case[1:] for case in COUNTS], ids=[case[0] for case in COUNTS])
def test_tokens_are_counted_as_the_server_does_or_else_with_caution(
    asked: GenerateRequest, events: list[Any], tokens: list[int]
) -> None:
    assert counted(asked, *events) == tokens


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


USAGES: list[tuple[str, list[Any], Usage]] = [
    ("one for all", [chunk("a"), chunk("b", index=1), {"choices": [], **usage(5, 9)}], Usage(5, 9)),
    ("llama.cpp's chats", [chunk("a"), {"choices": [], **usage(5, 4)}, {"choices": [], **usage(5, 3)}], Usage(5, 7)),
    ("llama.cpp's texts", [chunk("a") | usage(5, 4), chunk("b", index=1) | usage(5, 3)], Usage(5, 7)),
    ("as it goes", [chunk("a") | usage(5, 1), chunk("b") | usage(5, 2), {"choices": [], **usage(5, 6)}], Usage(5, 6)),
]


@pytest.mark.parametrize(("events", "total"), [case[1:] for case in USAGES], ids=[case[0] for case in USAGES])
def test_the_counts_of_several_answers(events: list[Any], total: Usage) -> None:
    reader = OpenAIReader(request(n=2))
    for one in LineSplitter().feed(sse(*events)):
        reader.feed(one)
    assert reader.usage == total


JSON_SO_FAR = request(response_format=JsonFormat(), resume_text='{"a": "bc', max_tokens=3)
"""`max_tokens` is of what is left."""

BEGUN_ANEW: list[tuple[str, list[Any], list[TextDelta], Finished]] = [
    (
        "what was said is left out, and not counted",
        [chunk('{"a"'), chunk(': "b'), chunk('c"}'), chunk(None, "stop"), {"choices": [], **usage(7, 3)}],
        [TextDelta('"}')],
        Finished("stop", Usage(7, 1)),
    ),
    (
        "it ends where it may say no more",
        [chunk('{"a": "bc'), *map(chunk, "defgh"), chunk(None, "stop")],
        [TextDelta("d"), TextDelta("e"), TextDelta("f")],
        Finished("length", Usage(7, 3)),
    ),
    (
        "it ends right after what was said",
        [chunk('{"a": "bc'), chunk(None, "stop")],
        [],
        Finished("stop", Usage(7, 0)),
    ),
    (
        "reasoning before it is nobody's",
        [chunk(reasoning_content="hm"), chunk('{"a": "bc'), chunk('"}', "stop")],
        [TextDelta('"}')],
        Finished("stop", Usage(7, 1)),
    ),
]


@pytest.mark.parametrize(
    ("events", "deltas", "end"), [case[1:] for case in BEGUN_ANEW], ids=[case[0] for case in BEGUN_ANEW]
)
def test_an_answer_in_a_form_is_begun_anew(events: list[Any], deltas: list[TextDelta], end: Finished) -> None:
    assert openai(JSON_SO_FAR, *events, DONE) == [*deltas, end]


@pytest.mark.parametrize("said", ['{"b"', '{"a": "bd', '{"a": "b'])
def test_what_is_begun_anew_and_is_another_answer_fails(said: str) -> None:
    with pytest.raises(WorkerFailed, match="began anew"):
        openai(JSON_SO_FAR, chunk(said), chunk(None, "stop"), DONE)


def test_reasoning_in_the_middle_of_an_answer_fails() -> None:
    """Whoever goes on with a text would not know it from the text."""
    for asked in (request(resume_text="Once"), request(resume_text="Once", response_format=JsonFormat())):
        with pytest.raises(WorkerFailed):
            openai(asked, chunk(reasoning_content="upon"), chunk(None, "stop"), DONE)


def test_a_named_error_event_fails() -> None:
    asked = request()
    with pytest.raises(WorkerFailed):
        read(OpenAIReader(asked), asked, b'event: error\nerror: {"message":"x"}\n\n')


def test_every_delta_fits_a_frame() -> None:
    """A server may send all of an answer at once."""
    asked = request(prompt=WITH_TOOLS, max_tokens=5000, logprobs=20)
    token = {"token": "\U0001f600" * 100, "logprob": -1.0}
    whole = chunk("\U0001f600" * 20_000, "stop")
    whole["choices"][0]["delta"]["tool_calls"] = [
        {"index": 0, "id": "c", "function": {"name": "look", "arguments": "\U0001f600" * 20_000}}
    ]
    whole["choices"][0]["logprobs"] = {"content": [token | {"top_logprobs": [token] * 20}] * 40}
    *deltas, _ = openai(asked, whole, DONE)
    assert all(len(encode_frame(delta, MAX_EVENT_FRAME_BYTES)) for delta in deltas)
    texts = [delta.text for delta in deltas if isinstance(delta, TextDelta)]
    assert "".join(texts) == "\U0001f600" * 20_000 and max(map(len, texts)) == MAX_DELTA_CHARS
    assert sum(len(delta.logprobs) for delta in deltas if isinstance(delta, TextDelta)) == 40


def test_lines_have_a_cap_however_they_come() -> None:
    splitter = LineSplitter(8)
    assert splitter.feed(b"1234567\r\n12345678") == [b"1234567"]
    assert splitter.flush() == [b"12345678"]
    for feed in ([b"123456789"], [b"12345", b"6789"], [b"ok\n", b"1" * 9 + b"\n"]):
        splitter = LineSplitter(8)
        with pytest.raises(WorkerFailed):
            for data in feed:
                splitter.feed(data)


VLLM_OVERFLOW = "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."
LLAMA_OVERFLOW = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 512}}

REFUSALS: list[tuple[int, Any, type[P2PNetError], str]] = [
    (429, {}, Busy, "busy"),
    (503, {"error": "server busy, please try again"}, Busy, "busy"),
    (401, {"error": {"message": "Incorrect API key provided: sk-1"}}, WorkerFailed, "refused this worker"),
    (403, {}, WorkerFailed, "refused this worker"),
    (400, {"error": {"message": "temperature must be positive"}}, InvalidRequest, "temperature must be positive"),
    (400, {"object": "error", "message": "bad top_p"}, InvalidRequest, "bad top_p"),
    (422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}, InvalidRequest, "Field required"),
    (422, {"detail": "Unexpected fields"}, InvalidRequest, "Unexpected fields"),
    (413, b"<html>", InvalidRequest, "The upstream server refused the request with status 413."),
    (400, {"error": {"message": VLLM_OVERFLOW}}, ContextOverflow, VLLM_OVERFLOW),
    (400, {"error": {"message": "too much", "code": "context_length_exceeded"}}, ContextOverflow, "too much"),
    (400, LLAMA_OVERFLOW, ContextOverflow, "too long"),
    (400, {"error": "the input length exceeds the context length"}, ContextOverflow, "the input length exceeds"),
    (400, {"error": "registry.ollama.ai/library/m does not support tools"}, FeatureMissing, "does not support tools"),
    (400, {"error": {"message": '"auto" tool choice requires --enable-auto-tool-choice'}}, FeatureMissing, "auto"),
    (500, {"error": {"message": "tools param requires --jinja flag"}}, FeatureMissing, "jinja"),
    (404, {"error": "model 'm' not found"}, ModelNotFound, "does not run this model"),
    (500, {"error": "CUDA error at /home/ann/x.cu"}, WorkerFailed, "status 500"),
    (502, b"", WorkerFailed, "status 502"),
    (302, b"", WorkerFailed, "status 302"),
    (400, b"[" * 60_000, InvalidRequest, "status 400"),
    (400, {"error": {"message": 5, "type": None}}, InvalidRequest, "status 400"),
]


@pytest.mark.parametrize(("status", "body", "error", "words"), REFUSALS)
def test_refusals(status: int, body: Any, error: type[P2PNetError], words: str) -> None:
    refused = refusal(status, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert type(refused) is error
    assert words in refused.message
    assert "/home/ann" not in refused.message


def test_a_refusals_words_are_short_printable_and_without_our_key() -> None:
    body = json.dumps({"error": "bad \x1b[31m key s3cret\n" + "x" * 5000}).encode()
    message = refusal(400, body, key="s3cret").message
    assert message.startswith("bad [31m key *** xxx")
    assert len(message) == MAX_MESSAGE_CHARS and message.isprintable()
